"""Triplet loss with hard mining (paper Eq. 3)."""

from __future__ import annotations

from torch import Tensor

from metabin_plugin.losses.distance import (
    check_rows,
    farthest,
    mean_over_anchors,
    nearest,
    pairwise_distance,
)


def triplet_loss(
    features: Tensor, identities: Tensor, margin: float = 0.3, *, distances: Tensor | None = None
) -> Tensor:
    """Pull the hardest positive of each anchor closer than its hardest negative (Eq. 3).

    Mean over the anchors of `max(0, d(anchor, positive) - d(anchor, negative) + margin)`, with
    the farthest sample of the anchor's identity (the anchor itself where it is the only one) and
    the nearest sample of another identity. Anchors without a negative are left out of the mean;
    if no anchor has one, the loss is a zero through which gradients still flow.

    Args:
        features: features (N, D), not normalized.
        identities: identity label of each sample (N,).
        margin: margin m, in units of the distance.
        distances: `pairwise_distance` of the features, where it is known already.

    Returns:
        Scalar, in float32 at least.

    Raises:
        ValueError: shapes do not fit together.
    """
    check_rows("triplet_loss", features, identities=identities)
    distances = pairwise_distance(features) if distances is None else distances
    same = identities[:, None] == identities[None, :]
    anchors = (~same).any(dim=1)
    gaps = farthest(distances, same) - nearest(distances, ~same)
    return mean_over_anchors((gaps + margin).clamp_min(0), anchors)
