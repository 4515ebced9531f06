"""CMC, average precision and inverse negative penalty from the ranks of the matches."""

from __future__ import annotations

import numpy as np

from metabin_plugin.errors import DatasetError

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
