"""Hardest samples of every anchor."""

from __future__ import annotations

from torch import Tensor


def farthest(distances: Tensor, candidates: Tensor) -> Tensor:
    """Distance of each anchor to its farthest candidate; ties share the gradient evenly.

    Args:
        distances: distances (N, N), anchors in rows.
        candidates: which samples count for which anchor, boolean (N, N).

    Returns:
        Distances (N,); minus infinity for an anchor without candidates.
    """
    return distances.masked_fill(~candidates, float("-inf")).amax(dim=1)


def nearest(distances: Tensor, candidates: Tensor) -> Tensor:
    """Distance of each anchor to its nearest candidate; ties share the gradient evenly.

    Args:
        distances: distances (N, N), anchors in rows.
        candidates: which samples count for which anchor, boolean (N, N).

    Returns:
        Distances (N,); infinity for an anchor without candidates.
    """
    return distances.masked_fill(~candidates, float("inf")).amin(dim=1)


def mean_over_anchors(values: Tensor, anchors: Tensor) -> Tensor:
    """Mean of the values of some anchors.

    Args:
        values: value of each sample (N,).
        anchors: which samples count as anchors, boolean (N,).

    Returns:
        Scalar; without any anchor a zero that still belongs to the graph of `values`.
    """
    return values.where(anchors, 0).sum() / anchors.sum().clamp_min(1)
