"""The generators of the process are read, put back and lent out without a trace."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from metabin_plugin.random_state import (
    PrivateRandomness,
    capture,
    isolated,
    mix_seeds,
    restore,
)


def numbers() -> list[Any]:
    """Some numbers of every kind from each generator; an odd number of normal ones."""
    return [
        random.random(),
        random.gauss(0, 1),
        random.getrandbits(70),
        np.random.rand(3).tolist(),
        np.random.randn(),
        np.random.permutation(9).tolist(),
        torch.rand(3).tolist(),
        torch.randn(1, dtype=torch.float64).item(),
        torch.randn(3).tolist(),
        torch.randperm(9).tolist(),
    ]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_generators_go_on_from_a_saved_state_bit_for_bit(before: int) -> None:
    # The normal numbers come in pairs of which the second is kept in the generator.
    for _ in range(before):
        numbers()
    state = through_a_file(capture())
    expected = [numbers() for _ in range(3)]
    numbers()
    restore(state)
    assert [numbers() for _ in range(3)] == expected


def test_reading_the_state_changes_nothing_and_a_copy_is_kept() -> None:
    state = capture()
    first = numbers()
    restore(state)
    capture()
    assert numbers() == first
    restore(state)
    assert numbers() == first


@pytest.mark.parametrize("use", [isolated, PrivateRandomness])
def test_lent_generators_come_back_as_they_were(use: Callable[[int], Any]) -> None:
    np.random.randn()
    random.gauss(0, 1)
    state = capture()
    expected = numbers()
    restore(state)
    with pytest.raises(ValueError, match="inside"), use(5):
        numbers()
        raise ValueError("inside")
    assert numbers() == expected


def test_a_seed_decides_and_no_generator_repeats_another() -> None:
    def inside(seed: int) -> list[Any]:
        with isolated(seed):
            return numbers()

    assert inside(5) == inside(5)
    for ours, theirs in zip(inside(5), inside(2**100 + 5), strict=True):
        assert ours != theirs
    with isolated(5):
        # Python and NumPy have the same Mersenne Twister.
        assert not np.isin(np.random.rand(100), [random.random() for _ in range(100)]).any()


def test_lending_leaves_the_cuda_generators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seed: int) -> None:
        raise AssertionError("the CUDA generators were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    with isolated(5), PrivateRandomness(6):
        numbers()


def test_private_generators_go_on_between_visits() -> None:
    with isolated(7):
        expected = [numbers() for _ in range(4)]
    ours, others = PrivateRandomness(7), PrivateRandomness(8)
    seen = []
    for _ in range(4):
        numbers()
        with others:
            numbers()
        with ours:
            seen.append(numbers())
    assert seen == expected


def test_mixed_seeds_tell_their_parts_and_order() -> None:
    lists = [(1, 23), (12, 3), (3, 12), (123,), (1, None), (1, "a"), (1, 0), (1,), ()]
    seeds = [mix_seeds(*parts) for parts in lists]
    assert len(set(seeds)) == len(lists)
    assert all(0 <= seed < 2**128 for seed in seeds)
    assert mix_seeds(1, 23) == seeds[0]
    # Runs on other machines and versions must find the same stream.
    assert mix_seeds(3, 3, 0, 17, 0) == 335159283345936385646820081754491127175


def test_the_cuda_generator_is_part_of_the_state_once_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    without = capture()
    assert without["cuda"] is None
    given = torch.arange(16, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", given.clone)
    state = through_a_file(capture())
    put: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", put.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    restore(state)
    assert put == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    restore(without)
    assert put == []
    restore(state)
    assert [values.tolist() for values in put] == [given.tolist()]
