"""Ranks of a query's matches in its gallery, found without ordering the gallery."""

from __future__ import annotations

import numpy as np


def match_ranks(distances: np.ndarray, matches: np.ndarray, distractors: np.ndarray) -> np.ndarray:
    """Ranks at which a query's matches come up when its gallery is ordered by distance.

    The rank of a match is one more than the number of gallery entries before it: those at a
    smaller distance and, at an equal distance, those with a smaller gallery index (the order of a
    stable sort). The entries are counted; those beyond the farthest match are not even looked at.

    Args:
        distances: distance of every gallery entry to the query (G,), without NaN.
        matches: gallery indices of the matches, ascending (M,), M >= 1.
        distractors: boolean (G,), the gallery entries that are neither matches nor discarded.

    Returns:
        Ranks of the matches, ascending, starting at 1 (M,).
    """
    matches = matches[np.argsort(distances[matches], kind="stable")]
    thresholds = distances[matches]
    rivals = np.flatnonzero(distractors & (distances <= thresholds[-1]))
    rival_distances = distances[rivals]
    in_order = np.sort(rival_distances)
    nearer = np.searchsorted(in_order, thresholds, side="left")
    not_farther = np.searchsorted(in_order, thresholds, side="right")
    ranks = np.arange(1, len(matches) + 1) + nearer
    for place in np.flatnonzero(not_farther > nearer):
        ties = rivals[rival_distances == thresholds[place]]
        ranks[place] += np.count_nonzero(ties < matches[place])
    return ranks
