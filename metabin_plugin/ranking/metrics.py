"""Ranks of a query's matches in its gallery, found without ordering the gallery."""

from __future__ import annotations

import numpy as np

from metabin_plugin.errors import DatasetError


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


Metrics = tuple[np.ndarray, list[float], list[float]]


class RankMetrics:
    """Collects the ranks of one query after the other.

    Args:
        gallery_size: number of gallery entries G.
    """

    def __init__(self, gallery_size: int) -> None:
        self._precisions = np.zeros(gallery_size)
        self._first_ranks: list[int] = []
        self._average_precision: list[float] = []
        self._inverse_penalty: list[float] = []

    def add(self, ranks: np.ndarray, kept: int) -> None:
        """Take up a query.

        Args:
            ranks: ranks of its matches, ascending, starting at 1 (M,), M >= 1.
            kept: number of gallery entries that take a rank.
        """
        count, places = len(ranks), ranks - 1
        # Summed over the whole ranking, zeros included, as fastreid does: a sum over the matches
        # alone would be rounded differently.
        self._precisions[places] = np.arange(1, count + 1) / ranks
        self._average_precision.append(float(self._precisions[:kept].sum() / count))
        self._precisions[places] = 0
        self._inverse_penalty.append(count / float(ranks[-1]))
        self._first_ranks.append(int(ranks[0]))

    def result(self, length: int) -> Metrics:
        """Return the CMC curve (length,), and AP and INP of the queries.

        Args:
            length: length of the curve.

        Raises:
            DatasetError: no query was taken up.
        """
        if not self._first_ranks:
            raise DatasetError(
                "No query has a gallery image of its identity from another camera: check the "
                "identity and camera labels of the query and gallery lists"
            )
        hits = np.bincount(self._first_ranks, minlength=length + 1)[1 : length + 1]
        curve = np.cumsum(hits).astype(np.float32) / np.float32(len(self._first_ranks))
        return curve, self._average_precision, self._inverse_penalty
