"""Ranking by features: the distances of the whole matrix, in little memory."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metabin_plugin import ranking
from metabin_plugin.ranking import distance_chunks, evaluate_features, evaluate_rank

METRICS = ("cosine", "euclidean")


def features(count: int, seed: int) -> Tensor:
    return torch.randn(count, 24, generator=torch.Generator().manual_seed(seed))


def labels(random: np.random.RandomState, queries: int, gallery: int) -> list[np.ndarray]:
    return [random.randint(0, 3, count) for count in (queries, gallery, queries, gallery)]


@pytest.mark.parametrize("metric", METRICS)
def test_a_matrix_that_fits_a_chunk_is_fastreids_bit_for_bit(metric: str) -> None:
    from fastreid.utils.compute_dist import build_dist

    queries, gallery = features(30, 0), features(170, 1)
    (chunk,) = distance_chunks(queries, gallery, metric)
    np.testing.assert_array_equal(chunk.numpy(), build_dist(queries, gallery, metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [1, 7, 30])
def test_chunks_are_whole_rows_of_the_right_distances(metric: str, rows: int) -> None:
    queries, gallery = features(30, 0), features(170, 1)
    with mock.patch.object(ranking, "CHUNK_ELEMENTS", 170 * (rows + 1) - 1):
        chunks = [chunk.numpy() for chunk in distance_chunks(queries, gallery, metric)]
    assert {len(chunk) for chunk in chunks[:-1]} <= {rows}
    assert len(chunks) == -(-30 // rows)
    x, y = queries.double(), gallery.double()
    if metric == "cosine":
        x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
        expected = 1 - x @ y.t()
    else:
        expected = torch.stack([(row - y).square().sum(1) for row in x])
    np.testing.assert_allclose(np.concatenate(chunks), expected, rtol=1e-5, atol=2e-6)


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 500), st.integers(0, 2**31))
def test_chunking_changes_nothing(queries: int, gallery: int, elements: int, seed: int) -> None:
    """On small whole numbers, whose distances are exact in every order of summation."""
    random = np.random.RandomState(seed)
    x, y = (random.randint(-2, 3, (count, 4)) for count in (queries, gallery))
    groups = labels(random, queries, gallery)
    # One query with a match.
    groups[1][0], groups[2][0], groups[3][0] = groups[0][0], 0, 1
    exact = ((x[:, None] - y) ** 2).sum(2)
    expected = evaluate_rank(exact, *groups)
    with mock.patch.object(ranking, "CHUNK_ELEMENTS", elements):
        x, y = torch.from_numpy(x).float(), torch.from_numpy(y).float()
        found = evaluate_features(x, y, *groups, metric="euclidean")
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]


def test_a_gallery_larger_than_a_chunk_goes_row_by_row() -> None:
    with mock.patch.object(ranking, "CHUNK_ELEMENTS", 1):
        chunks = list(distance_chunks(features(3, 0), features(5, 1), "cosine"))
    assert [chunk.shape for chunk in chunks] == [(1, 5)] * 3


def test_features_that_require_grad_are_taken() -> None:
    x = features(4, 0).requires_grad_()
    cmc, _, _ = evaluate_features(x, x, [0, 1, 2, 3], [0, 1, 2, 3], [0] * 4, [1] * 4)
    assert cmc.tolist() == [1.0] * 4


def test_what_does_not_fit_is_named() -> None:
    x = features(2, 0)
    good = [[0, 1], [0, 1], [0, 0], [1, 1]]
    with pytest.raises(ValueError, match='"cosine" or "euclidean", got \'manhattan\''):
        evaluate_features(x, x, *good, metric="manhattan")
    with pytest.raises(ValueError, match="gallery_ids must have shape"):
        evaluate_features(x, x, [0, 1], [0, 1, 2], [0, 0], [1, 1])
    with pytest.raises(ValueError, match="max_rank"):
        evaluate_features(x, x, *good, max_rank=0)
    x[1, 0] = torch.nan
    with pytest.raises(ValueError, match="query 0 contain NaN"):
        evaluate_features(features(2, 0), x, *good)
