"""Intra-domain scatter loss (paper Eq. 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.losses.distance import check_rows
from metabin_plugin.precision import at_least_float32, product


def scatter_loss(features: Tensor, domains: Tensor, average: str = "sample") -> Tensor:
    """Spread the features of each domain: mean cosine to the centroid of their domain (Eq. 6).

    Rows are l2-normalized before the centroid is taken, as the authors do; the paper does not
    say. A row of zeros has cosine 0.

    Args:
        features: features (N, D).
        domains: domain label of each sample (N,).
        average: "sample" is the mean over all samples (Eq. 6); "domain" the mean over domains of
            the mean over their samples (the authors' code). They are equal where all domains have
            equally many samples.

    Returns:
        Scalar in [-1, 1], in float32 at least.

    Raises:
        ValueError: shapes do not fit together, or `average` is neither of the two.
    """
    check_rows("scatter_loss", features, domains=domains)
    if average not in ("sample", "domain"):
        raise ValueError(f"scatter_loss averages by 'sample' or 'domain', not by {average!r}")
    units = _unit_rows(at_least_float32(features))
    same_domain = domains[:, None] == domains
    shares = same_domain / same_domain.sum(dim=1, keepdim=True, dtype=units.dtype)
    # Unit rows have a mean cosine to the direction of their mean that is the length of the mean.
    cosines = torch.linalg.vector_norm(product(shares, units), dim=1)
    if average == "sample":
        return cosines.mean()
    weights = shares.diagonal()
    return (cosines * weights).sum() / weights.sum()


def _unit_rows(rows: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # A row of zeros is divided by 1.
    return rows / F.threshold(lengths, 0, 1)
