"""Ranks of a query's matches in its gallery, found without ordering the gallery."""

from __future__ import annotations

import numpy as np


def match_ranks(distances: np.ndarray, matches: np.ndarray, discarded: np.ndarray) -> np.ndarray:
    """Ranks at which a query's matches come up when its gallery is ordered by distance.

    The rank of a match is one more than the number of gallery entries before it: those at a
    smaller distance and, at an equal distance, those with a smaller gallery index (the order of a
    stable sort). The entries are counted; those beyond the farthest match are not even sorted.

    Args:
        distances: distance of every gallery entry to the query (G,), without NaN.
        matches: gallery indices of the matches, ascending (M,), M >= 1.
        discarded: gallery indices of the entries that take no rank.

    Returns:
        Ranks of the matches, ascending, starting at 1 (M,).
    """
    matches = matches[np.argsort(distances[matches], kind="stable")]
    thresholds = distances[matches]
    own = np.concatenate((matches, discarded))
    nearer, not_farther = _counts(distances[distances <= thresholds[-1]], thresholds)
    own_nearer, own_not_farther = _counts(distances[own], thresholds)
    rivals_nearer = nearer - own_nearer
    tied = not_farther - own_not_farther > rivals_nearer
    ranks = np.arange(1, len(matches) + 1) + rivals_nearer
    for place in np.flatnonzero(tied):
        ties = np.flatnonzero(distances == thresholds[place])
        earlier = ties[ties < matches[place]]
        ranks[place] += np.count_nonzero(~np.isin(earlier, own))
    return ranks


def _counts(values: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many values are below each threshold, and how many are not above it."""
    in_order = np.sort(values)
    below = np.searchsorted(in_order, thresholds, side="left")
    return below, np.searchsorted(in_order, thresholds, side="right")
