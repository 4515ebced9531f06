"""Inter-domain shuffle loss (paper Eq. 7)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.losses.distance import (
    check_rows,
    hardest_gaps,
    mean_over_anchors,
    pairwise_distance,
)


def shuffle_loss(
    features: Tensor, identities: Tensor, domains: Tensor, *, distances: Tensor | None = None
) -> Tensor:
    """Pull other domains towards each anchor and push its own domain's identities away (Eq. 7).

    Mean over the anchors of `softplus(d(anchor, inter) - d(anchor, intra))`, where `inter` is an
    inter-domain negative and `intra` an intra-domain one. The paper does not say which; as the
    authors do, `inter` is the farthest sample of another domain and `intra` the nearest sample of
    the same domain with another identity. The anchor itself counts among the candidates for
    `inter`, so that with one domain only the distance to it is (nearly) zero. Anchors without an
    intra-domain negative are left out of the mean; if no anchor has one, the loss is a zero
    through which gradients still flow.

    Args:
        features: features (N, D), not normalized.
        identities: identity label of each sample (N,).
        domains: domain label of each sample (N,).
        distances: `pairwise_distance` of the features, where it is known already.

    Returns:
        Scalar, in float32 at least.

    Raises:
        ValueError: shapes do not fit together.
    """
    check_rows("shuffle_loss", features, identities=identities, domains=domains)
    distances = pairwise_distance(features) if distances is None else distances
    same_domain = domains[:, None] == domains
    intra = same_domain & (identities[:, None] != identities)
    same_domain.fill_diagonal_(False)
    gaps = hardest_gaps(distances, not_far=same_domain, not_near=~intra)
    return mean_over_anchors(F.softplus(gaps), intra.any(dim=1))
