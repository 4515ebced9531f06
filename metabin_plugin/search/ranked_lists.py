"""Ranked galleries of a data set's queries, as its evaluation ranks them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from metabin_plugin.evaluation import Images
from metabin_plugin.ranking import distance_chunks, evaluate_features
from metabin_plugin.search.faults import SearchError


@dataclass(frozen=True)
class RankedImage:
    """A gallery image in a query's list.

    Attributes:
        index: which image of the gallery.
        distance: as evaluation has it.
        right: whether it shows the query's identity.
    """

    index: int
    distance: float
    right: bool


class RankedLists:
    """Queries and a gallery that are compared as in evaluation, without re-ranking.

    Args:
        query: the queries.
        gallery: the gallery.
        metric: "cosine" or "euclidean".
    """

    def __init__(self, query: Images, gallery: Images, metric: str) -> None:
        self._query, self._gallery, self._metric = query, gallery, metric

    def average_precisions(self) -> np.ndarray:
        """Average precision of each query in [0, 1], NaN for one without a match (Q,)."""
        precisions = np.full(len(self._query.identities), np.nan)
        matched = np.array([self._has_match(number) for number in range(len(precisions))])
        if matched.any():
            query, gallery = self._query.part(matched), self._gallery
            labels = (query.identities, gallery.identities, query.cameras, gallery.cameras)
            features = query.features, gallery.features
            precisions[matched] = evaluate_features(*features, *labels, metric=self._metric)[1]
        return precisions

    def list_of(self, number: int, top: int) -> list[RankedImage]:
        """The nearest gallery images of a query.

        As in evaluation, those of its identity by its camera are left out, and images at equal
        distance are in the order of the gallery.

        Args:
            number: which query.
            top: how many at most.
        """
        feature = self._query.features[number : number + 1]
        (distances,) = distance_chunks(feature, self._gallery.features, self._metric)
        row = distances[0].numpy()
        same, seen = self._same(number)
        kept = np.flatnonzero(~(same & seen))
        nearest = kept[np.argsort(row[kept], kind="stable")[:top]]
        return [RankedImage(int(i), float(row[i]), bool(same[i])) for i in nearest]

    def _has_match(self, number: int) -> bool:
        same, seen = self._same(number)
        return bool((same & ~seen).any())

    def _same(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        return (
            self._gallery.identities == self._query.identities[number],
            self._gallery.cameras == self._query.cameras[number],
        )


def choose_queries(precisions: np.ndarray, count: int, which: str, seed: int = 0) -> list[int]:
    """Numbers of the queries to show.

    Args:
        precisions: average precision of each query, NaN for one without a match.
        count: how many, at most as many as there are.
        which: "spread", evenly over the data set; "worst" of those that have a match, the worst
            first; or "random".
        seed: of "random".

    Raises:
        SearchError: no query has a match, for "worst".
    """
    if which == "worst":
        order = np.argsort(precisions, kind="stable")
        chosen = order[: min(count, int((~np.isnan(precisions)).sum()))]
        if not len(chosen):
            raise SearchError("no query has a match in the gallery; choose others than the worst")
        return chosen.tolist()
    total = len(precisions)
    count = min(count, total)
    if which == "random":
        return np.sort(np.random.default_rng(seed).choice(total, count, replace=False)).tolist()
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def queries_of(identities: np.ndarray, wanted: Sequence[int]) -> list[int]:
    """Numbers of all queries of some identities, in the order of these.

    Args:
        identities: identity of each query (Q,).
        wanted: identities.

    Raises:
        SearchError: an identity has no query.
    """

    def numbers() -> Iterator[int]:
        for identity in wanted:
            found = np.flatnonzero(identities == identity)
            if not len(found):
                known = ", ".join(map(str, np.unique(identities)[:10]))
                raise SearchError(f"--ids: no query shows {identity}; there are {known} ...")
            yield from found.tolist()

    return list(numbers())
