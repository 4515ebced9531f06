from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metabin_plugin.errors import DatasetError
from metabin_plugin.ranking import evaluate_rank

Labels = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
LONGEST = 12


def by_loops(
    distances: np.ndarray, labels: Labels, max_rank: int
) -> tuple[list[float], list[float], list[float]]:
    """The Market-1501 protocol, one gallery entry after the other in the order of a stable sort."""
    query_ids, gallery_ids, query_cameras, gallery_cameras = (x.tolist() for x in labels)
    curves, precisions, penalties = [], [], []
    for row, identity, camera in zip(distances.tolist(), query_ids, query_cameras, strict=True):
        hits, rank, shares = 0, 0, []
        curve = [0.0] * max_rank
        for entry in sorted(range(len(row)), key=lambda g: (row[g], g)):
            if gallery_ids[entry] == identity and gallery_cameras[entry] == camera:
                continue
            rank += 1
            if gallery_ids[entry] == identity:
                hits += 1
                shares.append(hits / rank)
                curve = [1.0 if r + 1 >= rank else value for r, value in enumerate(curve)]
                last = rank
        if shares:
            curves.append(curve)
            precisions.append(sum(shares) / hits)
            penalties.append(hits / last)
    return (
        [sum(column) / len(curves) for column in zip(*curves, strict=True)],
        precisions,
        penalties,
    )


def kept_gallery(labels: Labels) -> int:
    """The shortest gallery of an evaluated query, 0 if no query can be evaluated."""
    query_ids, gallery_ids, query_cameras, gallery_cameras = labels
    same = query_ids[:, None] == gallery_ids
    other_camera = query_cameras[:, None] != gallery_cameras
    kept = (~same | other_camera).sum(1)[(same & other_camera).any(1)]
    return int(kept.min()) if len(kept) else 0


@st.composite
def problems(draw: st.DrawFn, ties: bool) -> tuple[np.ndarray, Labels]:
    queries, gallery = draw(st.integers(1, 5)), draw(st.integers(1, LONGEST))
    few = st.integers(0, 3)

    def column(length: int) -> np.ndarray:
        return np.array(draw(st.lists(few, min_size=length, max_size=length)))

    labels = (column(queries), column(gallery), column(queries), column(gallery))
    if ties:
        values = [column(gallery) for _ in range(queries)]
    else:
        order = st.permutations(range(gallery))
        values = [np.array(draw(order)) for _ in range(queries)]
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return np.array(values, dtype=dtype) / 4, labels


@settings(max_examples=150)
@given(problems(ties=True), st.integers(1, LONGEST))
def test_equals_the_loop_with_ties(problem: tuple[np.ndarray, Labels], max_rank: int) -> None:
    distances, labels = problem
    if kept_gallery(labels) == 0:
        with pytest.raises(DatasetError):
            evaluate_rank(distances, *labels, max_rank)
        return
    length = min(max_rank, distances.shape[1])
    expected = by_loops(distances, labels, length)
    cmc, precisions, penalties = evaluate_rank(distances, *labels, max_rank)
    np.testing.assert_allclose(cmc, expected[0], rtol=1e-6)
    np.testing.assert_allclose(precisions, expected[1], rtol=1e-12)
    np.testing.assert_allclose(penalties, expected[2], rtol=0)


def test_equals_the_loop_with_many_ties_in_a_larger_gallery() -> None:
    random = np.random.RandomState(0)
    labels = tuple(random.randint(0, 2, n) for n in (6, 500, 6, 500))
    distances = random.randint(0, 4, (6, 500)) / 4
    _, precisions, penalties = evaluate_rank(distances, *labels, 50)
    _, expected_precisions, expected_penalties = by_loops(distances, labels, 50)
    np.testing.assert_allclose(precisions, expected_precisions, rtol=1e-12)
    np.testing.assert_array_equal(penalties, expected_penalties)


@settings(max_examples=100)
@given(problems(ties=False), st.integers(1, LONGEST))
def test_equals_fastreid_without_ties(problem: tuple[np.ndarray, Labels], max_rank: int) -> None:
    from fastreid.evaluation.rank import eval_market1501

    distances, labels = problem
    # fastreid cannot average curves of different lengths.
    max_rank = min(max_rank, kept_gallery(labels))
    if max_rank == 0:
        return
    ours = evaluate_rank(distances, *labels, max_rank)
    theirs = eval_market1501(distances, *labels, max_rank)
    assert ours[0].dtype == theirs[0].dtype == np.float32
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_array_equal(ours[2], theirs[2])


@settings(max_examples=40)
@given(st.integers(60, 900), st.integers(2, 30), st.integers(1, 5), st.integers(0, 2**31))
def test_equals_fastreid_on_a_larger_gallery(
    gallery: int, identities: int, cameras: int, seed: int
) -> None:
    """Exactly: fastreid's average precision is a sum over hundreds of entries."""
    from fastreid.evaluation.rank import eval_market1501

    random = np.random.RandomState(seed)
    ranges = ((identities, 12), (identities, gallery), (cameras, 12), (cameras + 1, gallery))
    labels: Labels = tuple(random.randint(0, high, n) for high, n in ranges)  # type: ignore
    # A query with a match at least.
    labels[1][0], labels[3][0] = labels[0][0], cameras
    distances = random.permutation(12 * gallery).reshape(12, gallery).astype(np.float32)
    max_rank = min(50, kept_gallery(labels))
    ours = evaluate_rank(distances, *labels, max_rank)
    theirs = eval_market1501(distances, *labels, max_rank)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_array_equal(ours[2], theirs[2])


def test_worked_example() -> None:
    # Kept order: wrong, right, wrong, right; the query's own camera is discarded.
    distances = [[0.1, 0.2, 0.3, 0.4, 0.5]]
    cmc, precisions, penalties = evaluate_rank(
        distances, [7], [7, 8, 7, 9, 7], [0], [0, 0, 1, 1, 2], max_rank=3
    )
    assert cmc.tolist() == [0.0, 1.0, 1.0]
    assert cmc.dtype == np.float32
    assert precisions == pytest.approx([(1 / 2 + 2 / 4) / 2])
    assert penalties == pytest.approx([2 / 4])


def test_equal_distances_are_ordered_by_gallery_index() -> None:
    ids, cameras = [1, 0, 1], [1, 1, 1]
    _, precisions, _ = evaluate_rank([[0.5, 0.5, 0.5]], [0], ids, [0], cameras)
    assert precisions == [1 / 2]


def test_a_query_without_a_match_is_skipped() -> None:
    distances = np.array([[0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
    cmc, precisions, penalties = evaluate_rank(distances, [0, 5, 0], [0, 1], [0, 0, 0], [1, 1])
    assert cmc.tolist() == [0.5, 1.0]
    assert precisions == [1.0, 0.5]
    assert penalties == [1.0, 0.5]


def test_the_curve_is_no_longer_than_the_gallery_and_ends_at_1() -> None:
    # The kept gallery of the query is shorter still: the curve stays at its last value.
    cmc, _, _ = evaluate_rank([[0.1, 0.2, 0.3]], [0], [0, 0, 0], [0], [0, 0, 1], max_rank=50)
    assert cmc.tolist() == [1.0, 1.0, 1.0]


def test_tensors_and_lists_are_taken_as_they_are() -> None:
    distances = torch.tensor([[0.3, 0.1], [0.2, 0.4]])
    ids, cameras = torch.tensor([0, 1]), torch.tensor([0, 0])
    cmc, _, _ = evaluate_rank(distances, ids, ids, cameras, cameras + 1)
    assert cmc.tolist() == [0.0, 1.0]


def test_no_match_at_all_is_an_error_that_says_so() -> None:
    with pytest.raises(DatasetError, match="from another camera"):
        evaluate_rank([[0.1, 0.2]], [0], [0, 1], [0], [0, 0])


def test_nan_is_an_error_that_names_the_query() -> None:
    distances = np.array([[0.1, 0.2], [0.1, np.nan]])
    with pytest.raises(ValueError, match="query 1 contain NaN"):
        evaluate_rank(distances, [0, 0], [0, 1], [0, 0], [1, 1])


@pytest.mark.parametrize(
    ("name", "position"),
    [("query_ids", 1), ("gallery_ids", 2), ("query_cameras", 3), ("gallery_cameras", 4)],
)
def test_labels_that_do_not_fit_are_named(name: str, position: int) -> None:
    arguments = [np.zeros((2, 3)), [0, 0], [0, 0, 0], [0, 0], [1, 1, 1]]
    arguments[position] = [0]
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        evaluate_rank(*arguments)


def test_distances_must_be_a_matrix_and_max_rank_positive() -> None:
    with pytest.raises(ValueError, match="one row per query"):
        evaluate_rank([0.1, 0.2], [0], [0, 1], [0], [1, 1])
    with pytest.raises(ValueError, match="max_rank"):
        evaluate_rank([[0.1, 0.2]], [0], [0, 1], [0], [1, 1], max_rank=0)
