"""Triplet loss with hard mining (paper Eq. 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.losses.distance import check_rows, hardest_gaps, pairwise_distance


def triplet_loss(
    features: Tensor, identities: Tensor, margin: float = 0.3, *, distances: Tensor | None = None
) -> Tensor:
    """Pull the hardest positive of each anchor closer than its hardest negative (Eq. 3).

    Mean over the anchors of `max(0, d(anchor, positive) - d(anchor, negative) + margin)`, with
    the farthest sample of the anchor's identity (the anchor itself where it is the only one) and
    the nearest sample of another identity. With one identity there are no negatives, and the loss
    is a zero through which gradients still flow.

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
    same, other = (compare(identities[:, None], identities) for compare in (torch.eq, torch.ne))
    gaps = hardest_gaps(distances, not_far=other, not_near=same)
    # If one anchor has no negative, none has.
    return F.relu(gaps + margin).mean() * other.any()
