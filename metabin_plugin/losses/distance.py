"""Distances of features, the hardest pairs among them, and checks of what a loss is given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.precision import at_least_float32, product

SQUARED_FLOOR = 1e-12
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


def check_rows(name: str, rows: Tensor, **labels: Tensor) -> None:
    """Refuse features that are not a matrix, and labels that do not fit its rows.

    Args:
        name: the loss, for the message.
        rows: features or logits, one row per sample.
        **labels: one label per sample, each 1-D, by argument name.

    Raises:
        ValueError: a shape is wrong, or there are no rows.
    """
    if rows.dim() != 2 or rows.shape[0] == 0:
        raise ValueError(f"{name} needs a matrix with one row per sample, got {tuple(rows.shape)}")
    for label, values in labels.items():
        if values.shape != rows.shape[:1]:
            raise ValueError(
                f"{name} needs one entry of {label} per sample: there are {rows.shape[0]} "
                f"samples, {label} has shape {tuple(values.shape)}"
            )


def pairwise_distance(features: Tensor) -> Tensor:
    """Euclidean distance d of every pair of features (paper Eq. 3 and 7).

    Squared distances are floored at 1e-12 before the root, so that no gradient is infinite: equal
    features are 1e-6 apart and pull nothing.

    Args:
        features: features (N, D).

    Returns:
        Distances (N, N), symmetric, in float32 at least.

    Raises:
        ValueError: `features` is not a matrix, or empty.
    """
    check_rows("pairwise_distance", features)
    features = at_least_float32(features)
    squared_norms = features.square().sum(dim=1)
    products = product(features, features.T)
    squared = (squared_norms[:, None] + squared_norms).sub(products, alpha=2)
    # The gradient of a threshold is one operator, that of clamp_min three.
    return F.threshold(squared, SQUARED_FLOOR, SQUARED_FLOOR).sqrt()
