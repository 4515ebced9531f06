"""Hardest samples of every anchor."""

from __future__ import annotations

import torch
from torch import Tensor

from metabin_plugin.precision import product

_NONE = float("-inf")


def hardest_gaps(distances: Tensor, not_far: Tensor, not_near: Tensor) -> Tensor:
    """Distance of each anchor to its farthest candidate, less that to its nearest one.

    Equally hard samples share the gradient evenly.

    Args:
        distances: distances (N, N), anchors in rows.
        not_far: which samples are no candidates for the farthest, boolean (N, N).
        not_near: which samples are no candidates for the nearest, boolean (N, N).

    Returns:
        Differences (N,); without a meaning, but finite, for an anchor that lacks candidates.
    """
    values = distances.detach()
    # On a GPU each operator is a launch: one maximum for both, and a gradient that is one product.
    rows = torch.stack([values.masked_fill(not_far, _NONE), (-values).masked_fill(not_near, _NONE)])
    hardest = rows == rows.amax(dim=2, keepdim=True)
    far, near = hardest / hardest.sum(dim=2, keepdim=True, dtype=values.dtype)
    return product(distances[:, None], (far - near)[:, :, None]).flatten()


def mean_over_anchors(values: Tensor, anchors: Tensor) -> Tensor:
    """Mean of the values of some anchors.

    Args:
        values: finite value of each sample (N,).
        anchors: which samples count as anchors, boolean (N,).

    Returns:
        Scalar; without any anchor a zero that still belongs to the graph of `values`.
    """
    return torch.dot(values, anchors / anchors.sum(dtype=values.dtype).clamp_min(1))
