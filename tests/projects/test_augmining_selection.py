"""AugMining's choice of hard images and of their copies, against its definition in loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from augmining.augmentations import classify, hardest, select_copies


def right_log_probability(scores: list[float], identity: int) -> float:
    largest = max(scores)
    total = sum(math.exp(score - largest) for score in scores)
    return scores[identity] - largest - math.log(total)


def right_rank(scores: list[float], identity: int) -> int:
    return sum(score >= scores[identity] for score in scores)


def chosen_copy(original: float, copies: list[float], ranks: list[int], max_rank: int) -> int:
    best, lowest = -1, original
    for position, (copy, rank) in enumerate(zip(copies, ranks, strict=True)):
        if rank <= max_rank and copy < lowest:
            best, lowest = position, copy
    return best


# Few values, so that equal ones come up.
SCORES = st.one_of(st.integers(-2, 2).map(float), st.floats(-50, 50))


@st.composite
def classified(draw: st.DrawFn) -> tuple[list[list[float]], list[int]]:
    classes = draw(st.integers(1, 6))
    row = st.lists(SCORES, min_size=classes, max_size=classes)
    rows = draw(st.lists(row, min_size=1, max_size=8))
    identities = [draw(st.integers(0, classes - 1)) for _ in rows]
    return rows, identities


@given(classified())
def test_log_probabilities_and_ranks_are_those_of_the_definition(
    case: tuple[list[list[float]], list[int]],
) -> None:
    rows, identities = case
    found, ranks = classify(torch.tensor(rows, dtype=torch.float64), torch.tensor(identities))
    expected = [right_log_probability(*pair) for pair in zip(rows, identities, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert ranks.tolist() == [right_rank(*pair) for pair in zip(rows, identities, strict=True)]


def test_half_precision_scores_are_told_apart_far_below_its_smallest_probability() -> None:
    scores = torch.tensor([[90.0, 0.0], [91.0, 0.0]], dtype=torch.bfloat16)
    found, _ = classify(scores, torch.tensor([1, 1]))
    assert found.dtype == torch.float32
    assert found.tolist() == [-90, -91]


@given(st.lists(SCORES, max_size=9), st.floats(0, 1))
def test_the_hardest_are_the_least_probable_in_order(values: list[float], fraction: float) -> None:
    ordered = sorted(range(len(values)), key=lambda position: (values[position], position))
    found = hardest(torch.tensor(values, dtype=torch.float64), fraction)
    assert found.tolist() == ordered[: round(fraction * len(values))]


@st.composite
def candidates(draw: st.DrawFn) -> tuple[list[float], list[list[float]], list[list[int]], int]:
    images, kinds = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    copies = [[draw(SCORES) for _ in range(kinds)] for _ in range(images)]
    ranks = [[draw(st.integers(1, 6)) for _ in range(kinds)] for _ in range(images)]
    return [draw(SCORES) for _ in range(images)], copies, ranks, draw(st.integers(1, 6))


@given(candidates())
def test_the_hardest_recognized_copy_is_taken_if_harder_than_the_image(
    case: tuple[list[float], list[list[float]], list[list[int]], int],
) -> None:
    originals, copies, ranks, max_rank = case
    found = select_copies(
        torch.tensor(originals, dtype=torch.float64),
        torch.tensor(copies, dtype=torch.float64),
        torch.tensor(ranks),
        max_rank,
    )
    expected = [chosen_copy(*row, max_rank) for row in zip(originals, copies, ranks, strict=True)]
    assert found.tolist() == expected


def test_where_every_copy_is_excessive_the_image_stays() -> None:
    ranks = torch.tensor([[2, 3], [9, 2]])
    assert select_copies(torch.zeros(2), -torch.ones(2, 2), ranks, 1).tolist() == [-1, -1]


def test_with_one_identity_nothing_is_harder_than_anything() -> None:
    log_probabilities, ranks = classify(torch.randn(6, 1), torch.zeros(6, dtype=torch.long))
    assert log_probabilities.tolist() == [0] * 6
    assert ranks.tolist() == [1] * 6
    copies = log_probabilities[:, None].expand(-1, 3)
    assert select_copies(log_probabilities, copies, ranks[:, None].expand(-1, 3), 1).max() == -1
