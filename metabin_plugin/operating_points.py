"""Operating points: at which distance it is the same person, and how often that is wrong.

A comparison is accepted where its distance is *below* a threshold. As in ``ranking``, a query is
not compared with gallery entries of its identity from its own camera.

Verification, one image against another (ISO/IEC 19795-1): the *false-match rate* (FMR) is the share
of the comparisons of different people that are accepted, the *true-match rate* (TMR, one minus the
false non-match rate FNMR) that of the comparisons of the same person.

- TMR at FMR f: the largest TMR of all thresholds whose FMR is at most f. Of N comparisons of
  different people floor(f N) may be accepted, so the threshold is the distance of the next one.
  Equal distances are accepted together or not at all.
- Equal error rate (EER): thresholds step over the one distance where FMR reaches FNMR. If they
  are equal there, it is that; else the mean of the two on that side of the step where their sum is
  smaller (Maio et al., FVC2000: Fingerprint Verification Competition, TPAMI 2002).
- d' (Daugman, The importance of being random, Pattern Recognition 2003): |mean of different - mean
  of same| / sqrt((variance of different + variance of same) / 2), with population variances.

Identification in an open set (ISO/IEC 19795-1; Phillips, Grother and Micheals in Handbook of Face
Recognition, 2011; Grother and Ngan, NIST IR 8009): a query is answered with its nearest gallery
entry, if that is below the threshold. The *false-positive identification rate* (FPIR) is the share
of the queries without a match in the gallery that are answered; the *detection and identification
rate* (DIR, rank 1) is the share of those with a match whose answer is one.

- DIR at FPIR f: the threshold is found as above, among the nearest distances of U queries without
  a match. Entries at equal distance come in the order of the gallery, as in ``ranking``.

A rate below 1 / N, or 1 / U, cannot be told from 0 by these images: its figures are NaN, and so is
every figure that lacks the comparisons it is a share of.

Distances are counted by the bits of their float32 numbers, which are in the order of the numbers:
in a first pass by the upper 20 bits, in a second one by all bits where an asked-for distance lies.
So the figures are exact, and never are more than some blocks of distances in memory.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metabin_plugin.ranking import distance_chunks

FALSE_MATCH_RATES = (1e-1, 1e-2, 1e-3, 1e-4)
FALSE_POSITIVE_RATES = (1e-1, 1e-2)
# A MiB in float32: what is made of a block stays in a processor's cache.
BLOCK_ELEMENTS = 2**18
_LOW_BITS = 12
_LOW_VALUES = 2**_LOW_BITS
# Of a hundred cameras with one another; each pair is a pass of its own, and a line in a file.
MOST_PAIRS = 10_000
# Thresholds among which a resampled one is chosen; and how far beyond the wanted rate they reach.
_GRID, _REACH = 256, 4
_NAN = float("nan")

Array = NDArray[np.generic]
Counts = NDArray[np.int64]
Distances = NDArray[np.float32]
Positions = NDArray[np.int64]
# Of a query and of a gallery entry.
Cameras = tuple[int, int]


class Labelled(Protocol):
    """Images as they are compared: N of them."""

    @property
    def features(self) -> Tensor:
        """Features (N, D)."""

    @property
    def identities(self) -> Array:
        """Identity of each image (N,)."""

    @property
    def cameras(self) -> Array:
        """Camera of each image (N,)."""


class OperatingPoints(NamedTuple):
    """Figures of a set of comparisons; rates are in [0, 1].

    Attributes:
        match_thresholds: threshold for each of ``FALSE_MATCH_RATES``.
        true_match_rates: TMR at each of them.
        equal_error_rate: EER.
        separation: d'.
        same: number of comparisons of the same person.
        different: number of comparisons of different people.
        identification_thresholds: threshold for each of ``FALSE_POSITIVE_RATES``.
        identification_rates: DIR at each of them.
        mated: number of queries with a match in the gallery.
        unmated: number of queries without one.
    """

    match_thresholds: Sequence[float]
    true_match_rates: Sequence[float]
    equal_error_rate: float
    separation: float
    same: int
    different: int
    identification_thresholds: Sequence[float]
    identification_rates: Sequence[float]
    mated: int
    unmated: int

    def figures(self) -> dict[str, float]:
        """Each figure by its name."""
        match = [f"FMR={rate:.0e}" for rate in FALSE_MATCH_RATES]
        positive = [f"FPIR={rate:.0e}" for rate in FALSE_POSITIVE_RATES]
        return {
            **{f"TMR@{r}": v for r, v in zip(match, self.true_match_rates, strict=True)},
            "EER": self.equal_error_rate,
            "d_prime": self.separation,
            **{f"DIR@{r}": v for r, v in zip(positive, self.identification_rates, strict=True)},
            **{f"threshold@{r}": v for r, v in zip(match, self.match_thresholds, strict=True)},
            **{
                f"threshold@{r}": v
                for r, v in zip(positive, self.identification_thresholds, strict=True)
            },
            "same": self.same,
            "different": self.different,
            "mated": self.mated,
            "unmated": self.unmated,
        }


NO_COMPARISONS = OperatingPoints(
    [_NAN] * len(FALSE_MATCH_RATES),
    [_NAN] * len(FALSE_MATCH_RATES),
    *(_NAN, _NAN, 0, 0),
    [_NAN] * len(FALSE_POSITIVE_RATES),
    [_NAN] * len(FALSE_POSITIVE_RATES),
    *(0, 0),
)


class TargetPoints(NamedTuple):
    """Figures of a target, as a whole and by camera.

    Attributes:
        whole: of all comparisons.
        pairs: by the cameras of query and gallery: as if the gallery were that camera's; empty
            where there are more than ``MOST_PAIRS`` of them.
        same: distances of the same person.
        different: distances of different people.
    """

    whole: OperatingPoints
    pairs: dict[Cameras, OperatingPoints]
    same: DistanceCounts
    different: DistanceCounts


class DistanceCounts:
    """How many distances there are of each size, their mean and their variance."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._squares = 0.0
        self._first = 0
        self._bins: Counts = np.zeros(0, np.int64)
        self._up_to: Counts = np.zeros(0, np.int64)
        self._refined: Counts = np.zeros(0, np.int64)
        self._fine: Counts = np.zeros((0, _LOW_VALUES), np.int64)

    @property
    def variance(self) -> float:
        """Population variance; NaN if there are no distances."""
        return self._squares / self.count if self.count else float("nan")

    @property
    def bins(self) -> range:
        """Numbers of the bins, of which each holds the distances that share their upper bits."""
        return range(self._first, self._first + len(self._bins))

    def add(self, distances: Distances) -> None:
        """Count distances (N,).

        Raises:
            ValueError: one is NaN.
        """
        if not len(distances):
            return
        if np.isnan(distances).any():
            raise ValueError("distances contain NaN: some features are not finite")
        bins = _keys(distances) >> _LOW_BITS
        first = int(bins.min())
        mean = float(distances.mean(dtype=np.float64))
        squares = float(np.square(np.subtract(distances, mean, dtype=np.float64)).sum())
        self._merge(first, np.bincount(bins - first), len(distances), mean, squares)

    def add_counts(self, other: DistanceCounts) -> None:
        """Count what another one has counted."""
        if other.count:
            self._merge(other._first, other._bins, other.count, other.mean, other._squares)

    def refine(self, bins: Counts, distances: Distances) -> None:
        """Count distances by all of their bits, in some bins.

        Args:
            bins: numbers of the bins, ascending; the same in all calls.
            distances: in all calls together those that were counted before (N,).
        """
        if not len(self._refined):
            self._refined, self._fine = bins, np.zeros((len(bins), _LOW_VALUES), np.int64)
        keys = _keys(distances)
        found = keys[_is_among(bins, keys >> _LOW_BITS)]
        rows = np.searchsorted(bins, found >> _LOW_BITS)
        np.add.at(self._fine, (rows, found & (_LOW_VALUES - 1)), 1)

    def below(self, threshold: float) -> int:
        """How many distances are below a threshold, which is on the grid or in a refined bin."""
        key = int(_keys(np.array([threshold]))[0])
        number, low = key >> _LOW_BITS, key & (_LOW_VALUES - 1)
        return self.up_to_key(number, low - 1) if low else self.up_to(number - 1)

    def up_to(self, number: int) -> int:
        """How many distances are in a bin or in those below it."""
        if len(self._up_to) != len(self._bins):
            self._up_to = np.cumsum(self._bins)
        place = min(number - self._first, len(self._bins) - 1)
        return int(self._up_to[place]) if place >= 0 else 0

    def up_to_key(self, number: int, low: int) -> int:
        """How many distances are at most the one of these bits, in a refined bin."""
        return self.up_to(number - 1) + int(self._fine_of(number)[: low + 1].sum())

    def bin_of(self, rank: int) -> int:
        """Number of the bin of the distance that has ``rank`` others before it."""
        self.up_to(0)
        return self._first + int(np.searchsorted(self._up_to, rank, side="right"))

    def distance_of(self, rank: int) -> float:
        """The distance that has ``rank`` others before it; its bin is refined."""
        number = self.bin_of(rank)
        in_order = np.cumsum(self._fine_of(number))
        low = int(np.searchsorted(in_order, rank - self.up_to(number - 1), side="right"))
        # Two passes that round differently may disagree by a distance at the edge of a bin.
        return _distance((number << _LOW_BITS) + min(low, _LOW_VALUES - 1))

    def _fine_of(self, number: int) -> Counts:
        return self._fine[np.searchsorted(self._refined, number)]

    def _merge(self, first: int, bins: Counts, count: int, mean: float, squares: float) -> None:
        own = self.bins if self.count else range(first, first)
        low, high = min(own.start, first), max(own.stop, first + len(bins))
        if (low, high) != (own.start, own.stop):
            wider = np.zeros(high - low, np.int64)
            wider[own.start - low : own.stop - low] = self._bins
            self._first, self._bins = low, wider
        self._bins[first - low : first - low + len(bins)] += bins
        self._up_to = np.zeros(0, np.int64)
        # Chan, Golub and LeVeque, The American Statistician 1983.
        total, difference = self.count + count, mean - self.mean
        self._squares += squares + difference * difference * self.count * count / total
        self.mean += difference * count / total
        self.count = total


def _keys(distances: Array) -> NDArray[np.int32]:
    """Whole numbers in the order of float32 numbers, equal where these are."""
    # Minus zero becomes zero.
    bits = (np.asarray(distances, np.float32) + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _distance(key: int) -> float:
    bits = np.array([key], np.int64).astype(np.int32)
    return float((bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32)[0])


def _is_among(some: Counts, numbers: Array) -> NDArray[np.bool_]:
    if not len(some):
        return np.zeros(len(numbers), bool)
    table = np.zeros(int(some[-1] - some[0]) + 3, bool)
    table[some - some[0] + 1] = True
    # What is outside falls on one of the two ends, which are empty.
    return table[np.clip(numbers, some[0] - 1, some[-1] + 1) - (int(some[0]) - 1)]


def on_grid(threshold: float) -> float:
    """The largest threshold up to this one below which distances are counted without refining.

    Thresholds of the grid are less than 0.05 % apart.

    Args:
        threshold: any number; NaN stays.
    """
    if np.isnan(threshold):
        return threshold
    return _distance(int(_keys(np.array([threshold]))[0]) >> _LOW_BITS << _LOW_BITS)


def rates_at(threshold: float, same: DistanceCounts, different: DistanceCounts) -> list[float]:
    """FMR and TMR at a threshold of the grid (``on_grid``).

    Args:
        threshold: the threshold; NaN has no rates.
        same: distances of the same person.
        different: distances of different people.
    """
    return [
        float("nan")
        if np.isnan(threshold) or not counts.count
        else counts.below(threshold) / counts.count
        for counts in (different, same)
    ]


def histogram(counts: Sequence[DistanceCounts], bins: int) -> tuple[Array, list[Counts]]:
    """Distances counted between edges that lie evenly, but for the grid (``on_grid``).

    Args:
        counts: what has been counted.
        bins: number of bins at most.

    Returns:
        Edges (B + 1,), each belonging to the bin above it, and counts (B,) of each. Without any
        distance both are empty.
    """
    filled = [each.bins for each in counts if each.count]
    if not filled:
        return np.zeros(0), [np.zeros(0, np.int64) for _ in counts]
    low, high = min(each.start for each in filled), max(each.stop for each in filled)
    ends = _distance(low << _LOW_BITS), _distance(high << _LOW_BITS)
    edges = np.unique([*map(on_grid, np.linspace(*ends, bins + 1)[:-1]), ends[1]])
    return edges, [
        np.diff([each.below(edge) if each.count else 0 for edge in edges]) for each in counts
    ]


def allowed_errors(rate: float, trials: int) -> int | None:
    """How many of some trials may be errors at a rate; None if not even one.

    Args:
        rate: in (0, 1], taken as the decimal number that it is written as.
        trials: number of trials.
    """
    return int(Fraction(str(rate)) * trials) or None


def operating_points(
    query: Labelled, gallery: Labelled, metric: str, strangers: Labelled | None = None
) -> TargetPoints:
    """Compute the figures of queries and a gallery, by distances between features.

    A query whose identity is in the gallery under its own camera only is one without a match.

    Args:
        query: the queries.
        gallery: the gallery.
        metric: ``"cosine"`` or ``"euclidean"``, see ``ranking.distance_chunks``.
        strangers: further queries, of people who are not in the gallery. They count for DIR alone.

    Returns:
        The figures of all comparisons, and of each pair of cameras of a query and a gallery image,
        unless there are more than ``MOST_PAIRS`` pairs.

    Raises:
        ValueError: a stranger is in the gallery, a distance is NaN, or the metric is unknown.
    """
    compared = _Comparisons(query, gallery, metric, strangers)
    same, different = DistanceCounts(), DistanceCounts()
    answers = _Answers(compared.probes)
    figures = {}
    for cameras in compared.parts:
        own_same, own_different = DistanceCounts(), DistanceCounts()
        of_pair = _Answers(compared.probes)
        for piece in compared.pieces(cameras):
            of_pair.add(piece, piece.rows)
            own_same.add(piece.same)
            own_different.add(piece.different)
        for piece in compared.pieces(cameras, of_strangers=True):
            of_pair.add(piece, piece.rows + len(query.identities))
        answers.improve(of_pair)
        same.add_counts(own_same)
        different.add_counts(own_different)
        figures[cameras] = OperatingPoints(
            *_verification(own_same, own_different, partial(compared.pieces, cameras)),
            *of_pair.rates(),
        )
    if len(figures) == 1:
        # What the second pass counted is in the only part's.
        (whole,), same, different = figures.values(), own_same, own_different
    else:
        whole = OperatingPoints(
            *_verification(same, different, compared.all_pieces), *answers.rates()
        )
    pairs = {cameras: points for cameras, points in figures.items() if cameras is not None}
    return TargetPoints(whole, pairs, same, different)


class _Piece(NamedTuple):
    """Some queries beside all gallery entries that they are compared with.

    Attributes:
        rows: positions of the queries (B,).
        columns: positions of the entries (G,).
        distances: of each to each (B, G).
        same_person: whether both show one person (B, G).
        mates: whether they do and are of two cameras (B, G); where all are, ``same_person`` itself.
    """

    rows: Positions
    columns: Positions
    distances: Distances
    same_person: NDArray[np.bool_]
    mates: NDArray[np.bool_]

    @property
    def same(self) -> Distances:
        """Distances of the same person (N,)."""
        return self.distances[self.mates]

    @property
    def different(self) -> Distances:
        """Distances of different people (N,)."""
        return self.distances[~self.same_person]


class _Comparisons:
    """All comparisons, in pieces of little memory.

    Attributes:
        probes: number of queries, strangers included.
        parts: the pairs of cameras, which have all comparisons between them; where they are more
            than ``MOST_PAIRS``, None alone, which stands for all cameras.
    """

    def __init__(
        self, query: Labelled, gallery: Labelled, metric: str, strangers: Labelled | None = None
    ) -> None:
        sides = [query] if strangers is None else [query, strangers]
        if strangers is not None and np.isin(strangers.identities, gallery.identities).any():
            raise ValueError("strangers must not be in the gallery")
        self._query, self._gallery, self._strangers = query, gallery, strangers
        self._metric = metric
        self.probes = sum(len(side.identities) for side in sides)
        seen = np.unique(np.concatenate([side.cameras for side in sides])).tolist()
        held = np.unique(gallery.cameras).tolist()
        are_too_many = len(seen) * len(held) > MOST_PAIRS
        self.parts: list[Cameras | None] = (
            [None] if are_too_many else [*itertools.product(seen, held)]
        )

    def pieces(self, cameras: Cameras | None, of_strangers: bool = False) -> Iterator[_Piece]:
        """Compare the queries, or the strangers, with the entries: those of a part."""
        side, gallery = self._strangers if of_strangers else self._query, self._gallery
        if side is None:
            return
        if cameras is None:
            rows, columns = np.arange(len(side.cameras)), np.arange(len(gallery.cameras))
        else:
            rows = np.flatnonzero(side.cameras == cameras[0])
            columns = np.flatnonzero(gallery.cameras == cameras[1])
        identities, elsewhere = gallery.identities[columns], gallery.cameras[columns]
        step = max(1, BLOCK_ELEMENTS // len(columns))
        features = side.features[rows], gallery.features[columns]
        for chunk in distance_chunks(*features, self._metric):
            ready, rows = rows[: len(chunk)], rows[len(chunk) :]
            distances = chunk.float().cpu().numpy()
            for start in range(0, len(chunk), step):
                some = ready[start : start + step]
                same_person = side.identities[some][:, None] == identities
                mates = same_person
                if cameras is None or cameras[0] == cameras[1]:
                    mates = same_person & (side.cameras[some][:, None] != elsewhere)
                yield _Piece(some, columns, distances[start : start + step], same_person, mates)

    def all_pieces(self) -> Iterator[_Piece]:
        """Compare all queries with all entries."""
        return itertools.chain.from_iterable(map(self.pieces, self.parts))


class _Answers:
    """The nearest gallery entry of each query.

    Args:
        count: number of queries.
    """

    def __init__(self, count: int) -> None:
        self._asked = np.zeros(count, bool)
        self._mated = np.zeros(count, bool)
        self._right = np.zeros(count, bool)
        self._entries = np.full(count, np.iinfo(np.int64).max)
        self._distances = np.full(count, np.inf, np.float32)

    def add(self, piece: _Piece, places: Positions) -> None:
        """Take up the answers of a piece's queries, whose numbers here are ``places``."""
        distances = piece.distances
        if piece.mates is not piece.same_person:
            discarded = piece.same_person & ~piece.mates
            distances = np.where(discarded, np.float32(np.inf), distances)
        # The first of equal distances.
        nearest = distances.argmin(1)
        each = np.arange(len(nearest))
        self._asked[places] = True
        self._distances[places] = distances[each, nearest]
        self._entries[places] = piece.columns[nearest]
        self._mated[places] = piece.mates.any(1)
        self._right[places] = piece.mates[each, nearest]

    def improve(self, other: _Answers) -> None:
        """Take the nearer entry of two, and of equally near ones the first of the gallery."""
        nearer = other._distances < self._distances
        tied = other._distances == self._distances
        better = nearer | (tied & (other._entries < self._entries))
        for own, found in (
            (self._distances, other._distances),
            (self._entries, other._entries),
            (self._right, other._right),
        ):
            own[better] = found[better]
        self._mated |= other._mated
        self._asked |= other._asked

    def rates(self) -> tuple[list[float], list[float], int, int]:
        """Thresholds, DIR at them, and numbers of queries with and without a match."""
        found = np.sort(self._distances[self._asked & ~self._mated])
        right = self._distances[self._mated & self._right]
        mated = int(self._mated.sum())
        thresholds = []
        for rate in FALSE_POSITIVE_RATES:
            allowed = allowed_errors(rate, len(found))
            thresholds.append(_NAN if allowed is None else float(found[allowed]))
        rates = [
            _NAN if np.isnan(threshold) or not mated else int((right < threshold).sum()) / mated
            for threshold in thresholds
        ]
        return thresholds, rates, mated, len(found)


def _verification(
    same: DistanceCounts, different: DistanceCounts, pieces: Callable[[], Iterator[_Piece]]
) -> tuple[list[float], list[float], float, float, int, int]:
    """The first figures of ``OperatingPoints``; ``pieces`` makes the second pass."""
    allowed = [allowed_errors(rate, different.count) for rate in FALSE_MATCH_RATES]
    crossing = _crossing_bin(same, different) if same.count and different.count else None
    wanted = {different.bin_of(rank) for rank in allowed if rank is not None}
    _refine(same, different, wanted | ({crossing} if crossing is not None else set()), pieces)
    thresholds = [_NAN if rank is None else different.distance_of(rank) for rank in allowed]
    return (
        thresholds,
        [rates_at(threshold, same, different)[1] for threshold in thresholds],
        _NAN if crossing is None else _equal_error_rate(same, different, crossing),
        _separation(same, different),
        same.count,
        different.count,
    )


def _refine(
    same: DistanceCounts,
    different: DistanceCounts,
    bins: Iterable[int],
    pieces: Callable[[], Iterator[_Piece]],
) -> None:
    in_order = np.array(sorted(bins), np.int64)
    if len(in_order):
        for piece in pieces():
            same.refine(in_order, piece.same)
            different.refine(in_order, piece.different)


def _separation(same: DistanceCounts, different: DistanceCounts) -> float:
    spread = np.sqrt(np.float64(same.variance + different.variance) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.abs(different.mean - same.mean) / spread)


def _is_crossed(below: int, different: int, same_below: int, same: int) -> bool:
    """Whether FMR is at least FNMR, in whole numbers."""
    return below * same + same_below * different >= different * same


def _crossing_bin(same: DistanceCounts, different: DistanceCounts) -> int:
    bins = range(
        min(same.bins.start, different.bins.start), max(same.bins.stop, different.bins.stop)
    )
    place = bisect_left(
        bins,
        True,
        key=lambda number: _is_crossed(
            different.up_to(number), different.count, same.up_to(number), same.count
        ),
    )
    return bins[place]


def _equal_error_rate(same: DistanceCounts, different: DistanceCounts, number: int) -> float:
    def accepted(low: int) -> tuple[int, int]:
        return different.up_to_key(number, low), same.up_to_key(number, low)

    def is_crossed(low: int) -> bool:
        false, true = accepted(low)
        return _is_crossed(false, different.count, true, same.count)

    low = bisect_left(range(_LOW_VALUES - 1), True, key=is_crossed)
    sides = []
    for false, true in (accepted(low - 1), accepted(low)):
        false_match, false_non_match = false / different.count, (same.count - true) / same.count
        sides.append((false_match + false_non_match) / 2)
    false, true = accepted(low)
    is_equal = false * same.count == (same.count - true) * different.count
    return sides[1] if is_equal else min(sides)


class Proposal(NamedTuple):
    """A threshold for a wanted false-match rate.

    Attributes:
        threshold: the threshold.
        low: lower end of its interval.
        high: upper end of its interval.
        false_match_rate: FMR at the threshold; equal distances make it less than the wanted one.
        true_match_rate: TMR at the threshold.
        same: number of comparisons of the same person.
        different: number of comparisons of different people.
        people: number of people.
    """

    threshold: float
    low: float
    high: float
    false_match_rate: float
    true_match_rate: float
    same: int
    different: int
    people: int


def propose_threshold(
    query: Labelled,
    gallery: Labelled,
    metric: str,
    rate: float,
    *,
    confidence: float = 0.95,
    resamplings: int = 500,
    seed: int = 0,
) -> Proposal | None:
    """Find the threshold of a false-match rate, and how far other people would move it.

    The interval is that of the percentiles of a bootstrap over people: each resampling draws as
    many people as there are, with replacement, and a comparison of two different people counts as
    often as the product of their numbers (comparisons are not independent, people are; Bolle, Ratha
    and Pankanti, Error analysis of pattern recognition systems: the subset bootstrap, CVIU 2004).
    A resampling's threshold is chosen, as the threshold itself is, among distances of different
    people: the first 256 and as many in even steps of their rank's logarithm, up to four times the
    wanted rate and 1,000 comparisons more.

    Args:
        query: the queries.
        gallery: the gallery.
        metric: ``"cosine"`` or ``"euclidean"``.
        rate: the false-match rate, in (0, 1).
        confidence: share of the resampled thresholds between the ends of the interval.
        resamplings: how many to draw.
        seed: of the draw.

    Returns:
        None if the comparisons cannot tell the rate from 0.

    Raises:
        ValueError: a distance is NaN, or the metric is unknown.
    """
    compared = _Comparisons(query, gallery, metric)
    same, different = DistanceCounts(), DistanceCounts()
    for piece in compared.all_pieces():
        same.add(piece.same)
        different.add(piece.different)
    rank = allowed_errors(rate, different.count)
    if rank is None:
        return None
    top = min(different.count - 1, _REACH * rank + 1000)
    grid = np.geomspace(max(1, rank // _REACH), max(1, top), _GRID).round()
    ranks = np.unique([*range(min(_GRID, top + 1)), rank, *grid.astype(np.int64).clip(0, top)])
    _refine(same, different, set(map(different.bin_of, ranks)), compared.all_pieces)
    threshold = different.distance_of(rank)
    thresholds = np.unique(np.array([different.distance_of(r) for r in ranks], np.float32))
    people = np.unique(np.concatenate([query.identities, gallery.identities]))
    weights = np.random.default_rng(seed).multinomial(
        len(people), np.full(len(people), 1 / len(people)), resamplings
    )
    sides = [np.searchsorted(people, side.identities) for side in (query, gallery)]
    accepted = _resampled(compared.all_pieces(), thresholds, weights, *sides)
    totals = _totals(weights, *sides)
    chosen = [
        # The largest threshold below which no more than may be accepted are.
        thresholds[np.searchsorted(counts, Fraction(str(rate)) * total // 1, side="right") - 1]
        for counts, total in zip(accepted, totals.tolist(), strict=True)
        if total
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(chosen, [tail, 1 - tail]) if chosen else (_NAN, _NAN)
    false, true = rates_at(threshold, same, different)
    numbers = same.count, different.count, len(people)
    return Proposal(threshold, float(low), float(high), false, true, *numbers)


def _resampled(
    pieces: Iterator[_Piece],
    thresholds: Distances,
    weights: Counts,
    query: Positions,
    gallery: Positions,
) -> Counts:
    """Weight of the comparisons of different people below each threshold (R, T).

    Args:
        pieces: all comparisons.
        thresholds: ascending (T,).
        weights: how often each person is drawn (R, P).
        query: number of each query's person.
        gallery: number of each gallery image's person.
    """
    within = np.zeros((len(weights), len(thresholds)))
    for piece in pieces:
        rows, columns = np.nonzero(~piece.same_person & (piece.distances < thresholds[-1]))
        if not len(rows):
            continue
        # Number of the first threshold that is above.
        place = np.searchsorted(thresholds, piece.distances[rows, columns], side="right")
        one, other = query[piece.rows[rows]], gallery[piece.columns[columns]]
        for total, weight in zip(within, weights, strict=True):
            total += np.bincount(place, weight[one] * weight[other], len(thresholds))
    return within.cumsum(1).astype(np.int64)


def _totals(weights: Counts, query: Positions, gallery: Positions) -> Counts:
    """Weight of all comparisons of different people (R,)."""
    people = weights.shape[1]
    asked, held = np.bincount(query, minlength=people), np.bincount(gallery, minlength=people)
    return (weights @ asked) * (weights @ held) - np.square(weights) @ (asked * held)
