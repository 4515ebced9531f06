"""Euclidean distances between the features of a mini-batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.losses.checks import check_rows
from metabin_plugin.precision import at_least_float32, product

SQUARED_FLOOR = 1e-12


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
    products = product(features, features.T)
    # Squared norms that are rounded as the products are cancel them on the diagonal.
    halves = products.diagonal()[:, None] - products
    squared = halves + halves.T
    # The gradient of a threshold is one operator, that of clamp_min three.
    return F.threshold(squared, SQUARED_FLOOR, SQUARED_FLOOR).sqrt()
