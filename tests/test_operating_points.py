"""Operating points against plain loops over all comparisons, and the memory that they take."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metabin_plugin import operating_points as points
from metabin_plugin import ranking
from metabin_plugin.operating_points import (
    FALSE_MATCH_RATES,
    FALSE_POSITIVE_RATES,
    DistanceCounts,
    OperatingPoints,
    histogram,
    on_grid,
    operating_points,
    propose_threshold,
    rates_at,
)
from tests.processes import apart

NAN = float("nan")


class Side(NamedTuple):
    features: torch.Tensor
    identities: np.ndarray
    cameras: np.ndarray


def side(rows: list[tuple[int, int, int]]) -> Side:
    """Images of a place on a line, an identity and a camera: squared distances are exact."""
    places, identities, cameras = np.array(rows, np.int64).reshape(-1, 3).T
    features = torch.from_numpy(places.astype(np.float32))[:, None]
    return Side(features, identities, cameras)


def below(values: list[float], threshold: float) -> int:
    return int((np.array(values) < threshold).sum())


class Oracle:
    """The definitions, by trying every threshold."""

    def __init__(
        self, query: Side, gallery: Side, strangers: Side, cameras: tuple[int, int] | None
    ) -> None:
        self.same: list[float] = []
        self.different: list[float] = []
        self.answers: list[tuple[float, bool]] = []
        self.strangers: list[float] = []
        for probes, counted in ((query, True), (strangers, False)):
            for place, person, camera in zip(
                probes.features[:, 0].tolist(), *probes[1:], strict=True
            ):
                if cameras is not None and camera != cameras[0]:
                    continue
                row = []
                for entry, other, elsewhere in zip(
                    gallery.features[:, 0].tolist(), *gallery[1:], strict=True
                ):
                    if cameras is not None and elsewhere != cameras[1]:
                        continue
                    if (person, camera) != (other, elsewhere):
                        row.append(((place - entry) ** 2, person == other))
                if counted:
                    self.same += [distance for distance, right in row if right]
                    self.different += [distance for distance, right in row if not right]
                # The first of the nearest, as min gives it.
                best = min(row, key=lambda pair: pair[0], default=(math.inf, False))
                if any(right for _, right in row):
                    self.answers.append(best)
                else:
                    self.strangers.append(best[0])

    def best_at(self, rate: float, errors: list[float], share: Any) -> float:
        """The largest share at a threshold whose error rate is not above a rate."""
        allowed = Fraction(str(rate)) * len(errors)
        if allowed < 1:
            return NAN
        each = sorted(set(errors))
        thresholds = [-math.inf, *each, *(math.nextafter(e, math.inf) for e in each)]
        fit = [t for t in thresholds if below(errors, t) <= allowed]
        return max(share(t) for t in fit)

    def true_match_rates(self) -> list[float]:
        def share(threshold: float) -> float:
            return below(self.same, threshold) / len(self.same) if self.same else NAN

        return [self.best_at(rate, self.different, share) for rate in FALSE_MATCH_RATES]

    def identification_rates(self) -> list[float]:
        def share(threshold: float) -> float:
            hits = sum(right and d < threshold for d, right in self.answers)
            return hits / len(self.answers) if self.answers else NAN

        return [self.best_at(rate, self.strangers, share) for rate in FALSE_POSITIVE_RATES]

    def equal_error_rate(self) -> float:
        if not self.same or not self.different:
            return NAN
        steps = []
        for value in sorted({-math.inf, *self.same, *self.different}):
            beyond = math.nextafter(value, math.inf)
            false = Fraction(below(self.different, beyond), len(self.different))
            missed = 1 - Fraction(below(self.same, beyond), len(self.same))
            steps.append((false, missed))
        equal = [false for false, missed in steps if false == missed]
        if equal:
            return float(equal[0])
        before = [pair for pair in steps if pair[0] < pair[1]][-1]
        after = next(pair for pair in steps if pair[0] > pair[1])
        return float(min(sum(before), sum(after)) / 2)

    def separation(self) -> float:
        if not self.same or not self.different:
            return NAN
        same, different = np.array(self.same), np.array(self.different)
        spread = math.sqrt((same.var() + different.var()) / 2)
        gap = abs(same.mean() - different.mean())
        return gap / spread if spread else math.inf if gap else NAN


def check(found: OperatingPoints, oracle: Oracle) -> None:
    def equal(value: Any) -> Any:
        return pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True)

    assert (found.same, found.different) == (len(oracle.same), len(oracle.different))
    assert (found.mated, found.unmated) == (len(oracle.answers), len(oracle.strangers))
    assert found.true_match_rates == equal(oracle.true_match_rates())
    assert found.identification_rates == equal(oracle.identification_rates())
    assert found.equal_error_rate == equal(oracle.equal_error_rate())
    assert found.separation == equal(oracle.separation())
    # The thresholds are the largest that give these rates.
    for rate, threshold in zip(FALSE_MATCH_RATES, found.match_thresholds, strict=True):
        if not math.isnan(threshold):
            accepted = below(oracle.different, threshold)
            next_ones = below(oracle.different, math.nextafter(threshold, math.inf))
            assert accepted <= Fraction(str(rate)) * len(oracle.different) < next_ones
    for rate, threshold in zip(FALSE_POSITIVE_RATES, found.identification_thresholds, strict=True):
        if not math.isnan(threshold):
            answered = below(oracle.strangers, threshold)
            next_ones = below(oracle.strangers, math.nextafter(threshold, math.inf))
            assert answered <= Fraction(str(rate)) * len(oracle.strangers) < next_ones


def images(people: int, places: int = 6, **sizes: int) -> st.SearchStrategy[Side]:
    image = st.tuples(st.integers(0, places), st.integers(0, people - 1), st.integers(0, 2))
    return st.lists(image, **sizes).map(side)


@settings(max_examples=150)
@given(
    images(4, min_size=0, max_size=14),
    images(4, min_size=1, max_size=14),
    st.integers(0, 14),
    st.integers(1, 300),
)
def test_small_sets_with_ties_equal_a_loop(
    query: Side, gallery: Side, count: int, elements: int
) -> None:
    places = [(place % 7, 100 + place, place % 3) for place in range(count)]
    strangers = side(places)
    with mock.patch.object(points, "BLOCK_ELEMENTS", elements):
        found = operating_points(query, gallery, "euclidean", strangers)
    check(found.whole, Oracle(query, gallery, strangers, None))
    asked = {*query.cameras.tolist(), *strangers.cameras.tolist()}
    assert set(found.pairs) == {(a, b) for a in asked for b in set(gallery.cameras.tolist())}
    for cameras, pair in found.pairs.items():
        check(pair, Oracle(query, gallery, strangers, cameras))


@settings(max_examples=50)
@given(images(4, min_size=0, max_size=14), images(4, min_size=1, max_size=14), st.integers(0, 14))
def test_many_cameras_are_not_told_apart(query: Side, gallery: Side, count: int) -> None:
    """Who numbers each image's camera has as many pairs of them as comparisons."""
    strangers = side([(place % 7, 100 + place, place % 3) for place in range(count)])
    with mock.patch.object(points, "MOST_PAIRS", 0):
        found = operating_points(query, gallery, "euclidean", strangers)
        threshold = propose_threshold(query, gallery, "euclidean", 0.1, resamplings=3)
    check(found.whole, Oracle(query, gallery, strangers, None))
    assert found.pairs == {}
    by_pairs = propose_threshold(query, gallery, "euclidean", 0.1, resamplings=3)
    np.testing.assert_equal(threshold, by_pairs)


def test_a_camera_for_each_image_takes_no_pass_for_each_pair() -> None:
    places = range(150)
    query, gallery = (side([(p, p % 50, p + first) for p in places]) for first in (0, 150))
    with mock.patch.object(points, "distance_chunks", wraps=ranking.distance_chunks) as passes:
        found = operating_points(query, gallery, "euclidean")
    assert passes.call_count == 2
    assert (found.whole.same, found.whole.different) == (150 * 3, 150 * 147)


@pytest.mark.parametrize("places", [40, 100_000])
def test_every_rate_equals_a_loop_where_it_can_be_told(places: int) -> None:
    random = np.random.default_rng(places)

    def drawn(count: int, people: int, first: int = 0) -> Side:
        identities = random.integers(0, people, count)
        near = identities * places // 40 + random.integers(0, places, count)
        return side(list(zip(near, identities + first, random.integers(0, 2, count), strict=True)))

    # What float32 holds of squares of up to 1e5 is compared.
    query, gallery, strangers = drawn(120, 40), drawn(150, 40), drawn(110, 40, first=100)
    found = operating_points(query, gallery, "euclidean", strangers)
    assert found.whole.different > 1e4 and not np.isnan(found.whole.true_match_rates).any()
    assert not np.isnan(found.whole.identification_rates).any()
    if places == 40:
        check(found.whole, Oracle(query, gallery, strangers, None))
        assert len(found.pairs) == 4
    (chunk,) = ranking.distance_chunks(query.features, gallery.features, "euclidean")
    exact = chunk.numpy()
    different = np.sort(exact[query.identities[:, None] != gallery.identities])
    ranks = [int(Fraction(str(rate)) * len(different)) for rate in FALSE_MATCH_RATES]
    assert found.whole.match_thresholds == different[ranks].tolist()


def test_distances_of_all_sizes_and_signs_are_counted_exactly() -> None:
    random = np.random.default_rng(0)
    signs = random.choice([-1, 1], 5000)
    values = (signs * np.exp(random.uniform(-30, 30, 5000))).astype(np.float32)
    values[:6] = [0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45]
    counts = DistanceCounts()
    with np.errstate(invalid="ignore"):
        for part in np.array_split(values, 7):
            counts.add(part)
    in_order = np.sort(values)
    ranks = range(0, 5000, 49)
    bins = np.unique([counts.bin_of(rank) for rank in ranks])
    for part in np.array_split(values, 3):
        counts.refine(bins, part)
    for rank in ranks:
        assert counts.distance_of(rank) == in_order[rank]
        assert counts.below(in_order[rank]) == (values < in_order[rank]).sum()


@settings(max_examples=100)
@given(st.floats(-1e9, 1e9, width=32))
def test_the_grid_is_fine_and_below(threshold: float) -> None:
    rounded = on_grid(threshold)
    assert rounded <= threshold
    assert threshold - rounded <= 5e-4 * abs(threshold) + 1e-38
    assert on_grid(rounded) == rounded
    assert math.isnan(on_grid(NAN))


def test_rates_at_a_threshold_of_the_grid_need_no_second_pass() -> None:
    random = np.random.default_rng(1)
    counts = DistanceCounts(), DistanceCounts()
    values = [random.random(count).astype(np.float32) for count in (300, 700)]
    for each, some in zip(counts, values, strict=True):
        each.add(some)
    threshold = on_grid(0.3)
    expected = [(some < threshold).mean() for some in reversed(values)]
    assert rates_at(threshold, *counts) == expected
    assert np.isnan(rates_at(NAN, *counts)).all()
    assert np.isnan(rates_at(0.3, DistanceCounts(), DistanceCounts())).all()


def test_a_histogram_counts_every_distance_once() -> None:
    random = np.random.default_rng(2)
    values = [random.normal(mean, 0.1, 1000).astype(np.float32) for mean in (0.4, 0.9)]
    values[0][0] = -1e-7
    counts = [DistanceCounts(), DistanceCounts(), DistanceCounts()]
    for each, some in zip(counts, values, strict=False):
        each.add(some)
    edges, numbers = histogram(counts, 50)
    assert len(edges) == 51 and [each.sum() for each in numbers] == [1000, 1000, 0]
    for some, each in zip(values, numbers, strict=False):
        # NumPy's last bin holds its upper edge too, where there is no distance.
        assert each.tolist() == np.histogram(some, edges)[0].tolist()
    assert histogram([DistanceCounts()], 50)[0].size == 0


def test_a_rate_that_cannot_be_told_from_zero_is_no_number() -> None:
    query, gallery = side([(0, 0, 0)] * 3), side([(n, n + 1, 1) for n in range(30)])
    found = operating_points(query, gallery, "euclidean").whole
    assert found.different == 90
    assert found.match_thresholds[0] == pytest.approx(9.0)
    assert found.match_thresholds[1:] == pytest.approx([NAN] * 3, nan_ok=True)
    assert propose_threshold(query, gallery, "euclidean", 0.011) is None
    assert propose_threshold(query, gallery, "euclidean", 0.012) is not None


def test_what_is_no_number_or_no_stranger_is_refused() -> None:
    query, gallery = side([(0, 0, 0)]), side([(1, 1, 1), (2, 2, 1)])
    with pytest.raises(ValueError, match="strangers must not be in the gallery"):
        operating_points(query, gallery, "euclidean", side([(0, 2, 0)]))
    gallery.features[0] = NAN
    with pytest.raises(ValueError, match="contain NaN"):
        operating_points(query, gallery, "euclidean")


def test_cosine_figures_are_those_of_the_distances() -> None:
    random = np.random.default_rng(3)

    def drawn(count: int) -> Side:
        features = torch.from_numpy(random.standard_normal((count, 8))).float()
        return Side(features, random.integers(0, 6, count), np.zeros(count, int))

    query, gallery = drawn(40), drawn(60)
    gallery = gallery._replace(cameras=np.ones(60, int))
    (chunk,) = ranking.distance_chunks(query.features, gallery.features, "cosine")
    distances = chunk.numpy()
    is_same = query.identities[:, None] == gallery.identities
    found = operating_points(query, gallery, "cosine").whole
    threshold = np.sort(distances[~is_same])[int((~is_same).sum() / 10)]
    assert found.match_thresholds[0] == threshold
    assert found.true_match_rates[0] == (distances[is_same] < threshold).mean()


def look_at(what: str, count: int) -> None:
    """Compare a thousand images with others, in small parts."""
    ranking.CHUNK_ELEMENTS, points.BLOCK_ELEMENTS = 2**16, 2**14

    def drawn(count: int, seed: int) -> Side:
        random = np.random.default_rng(seed)
        features = torch.from_numpy(random.standard_normal((count, 4))).float()
        # Of one camera each, as images of other pairs are compared one pair after the other.
        return Side(features, random.integers(0, 50, count), np.full(count, seed))

    query, gallery = drawn(1000, 0), drawn(count, 1)
    if what == "points":
        operating_points(query, gallery, "cosine")
    else:
        propose_threshold(query, gallery, "cosine", 1e-4, resamplings=20)


@pytest.mark.parametrize("what", ["points", "threshold"])
def test_memory_does_not_grow_with_the_comparisons(what: str) -> None:
    (_, little), (_, much) = (apart(look_at, what, count) for count in (1000, 16_000))
    # All distances of the larger gallery are 64 MB.
    assert much - little < 32e6


def bootstrap(query: Side, gallery: Side, rate: float, weights: np.ndarray) -> list[float]:
    """The threshold of each resampling, people drawn out one by one."""
    people = np.unique([*query.identities, *gallery.identities])
    exact = (query.features - gallery.features.T).square().numpy()
    candidates = np.unique(exact[query.identities[:, None] != gallery.identities])
    chosen = []
    for row in weights:
        drawn = np.repeat(people, row)
        distances = [
            exact[i, j]
            for one in drawn
            for other in drawn
            if one != other
            for i in np.flatnonzero(query.identities == one)
            for j in np.flatnonzero(gallery.identities == other)
        ]
        if distances:
            allowed = Fraction(str(rate)) * len(distances)
            fit = [c for c in candidates if sum(d < c for d in distances) <= allowed]
            chosen.append(float(max(fit)))
    return chosen


def test_the_interval_resamples_people() -> None:
    random = np.random.default_rng(4)

    def drawn(count: int, camera: int) -> Side:
        rows = [(n, n % 7, camera) for n in random.integers(0, 60, count)]
        return side(rows)

    query, gallery = drawn(14, 0), drawn(15, 1)
    found = propose_threshold(query, gallery, "euclidean", 0.1, resamplings=40, seed=5)
    assert found is not None
    people = np.unique([*query.identities, *gallery.identities])
    weights = np.random.default_rng(5).multinomial(
        len(people), np.full(len(people), 1 / len(people)), 40
    )
    chosen = bootstrap(query, gallery, 0.1, weights)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(chosen, [0.025, 0.975])))
    assert found.low < found.threshold < found.high
    oracle = Oracle(query, gallery, side([]), None)
    assert found.threshold == sorted(oracle.different)[len(oracle.different) // 10]
    assert found.true_match_rate == pytest.approx(
        oracle.best_at(0.1, oracle.different, lambda t: np.mean([d < t for d in oracle.same]))
    )
    again = propose_threshold(query, gallery, "euclidean", 0.1, resamplings=40, seed=5)
    other = propose_threshold(query, gallery, "euclidean", 0.1, resamplings=40, seed=6)
    assert found == again != other


def test_people_with_many_images_make_the_interval_wide() -> None:
    """Ten images of each of 30 people say less than one image of each of 300."""
    random = np.random.default_rng(7)

    def drawn(people: int, camera: int) -> Side:
        identities = np.arange(300) % people
        places = random.standard_normal((people, 4))
        features = places[identities] + 0.05 * random.standard_normal((300, 4))
        return Side(torch.from_numpy(features).float(), identities, np.full(300, camera))

    widths = []
    for people in (30, 300):
        found = propose_threshold(drawn(people, 0), drawn(people, 1), "euclidean", 0.01)
        assert found is not None and found.low <= found.threshold <= found.high
        widths.append((found.high - found.low) / found.threshold)
    assert widths[0] > 2 * widths[1]


def test_figures_have_names() -> None:
    query, gallery = side([(0, 0, 0), (9, 1, 0)]), side([(1, 0, 1), (5, 1, 1)])
    figures = operating_points(query, gallery, "euclidean").whole.figures()
    assert list(figures)[:8] == [
        *("TMR@FMR=1e-01", "TMR@FMR=1e-02", "TMR@FMR=1e-03", "TMR@FMR=1e-04"),
        *("EER", "d_prime", "DIR@FPIR=1e-01", "DIR@FPIR=1e-02"),
    ]
    assert (figures["same"], figures["different"], figures["mated"]) == (2, 2, 2)
    # Distances 1 and 16 of the same person, 25 and 64 of different people.
    assert figures["EER"] == 0
