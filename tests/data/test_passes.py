"""fastreid's identity samplers, pass by pass: the same batches, and a short way to any of them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fastreid.data.samplers import BalancedIdentitySampler, NaiveIdentitySampler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from metabin_plugin.data import resumable
from metabin_plugin.data.passes import PassStart, has_passes, read_start
from metabin_plugin.data.resumable import StreamSeeds, draw_batches
from tests.campaigns import tries

KINDS = [NaiveIdentitySampler, BalancedIdentitySampler]
Image = tuple[str, Any, int]


def batch_sampler(
    kind: Any, images: list[Image], identities: int, instances: int, rank: int = 0, world: int = 1
) -> BatchSampler:
    sampler = kind(images, identities * instances, instances, seed=3)
    sampler._rank, sampler._world_size = rank, world
    sampler.batch_size = identities * instances * world
    return BatchSampler(sampler, identities * instances, True)


def drawn(
    sampler: BatchSampler, position: int, count: int, starts: list[PassStart]
) -> list[list[int]]:
    batches = draw_batches(sampler, StreamSeeds(1, 3), position, starts)
    return [[draw.image for draw in batch] for batch in itertools.islice(batches, count)]


@st.composite
def image_lists(draw: Any) -> list[Image]:
    name = draw(st.sampled_from([int, str]))
    counts = draw(st.lists(st.integers(1, 7), min_size=8, max_size=20))
    images = [("", name(pid), 0) for pid, count in enumerate(counts) for _ in range(count)]
    images = draw(st.permutations(images))
    cameras = draw(st.lists(st.integers(0, 2), min_size=len(images), max_size=len(images)))
    return [(path, pid, camera) for (path, pid, _), camera in zip(images, cameras, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=tries(15, 100))
@given(
    images=image_lists(),
    identities=st.integers(1, 4),
    instances=st.integers(1, 4),
    world=st.integers(1, 2),
    position=st.integers(0, 40),
)
def test_the_batches_are_fastreids_from_any_position(
    kind: Any, images: list[Image], identities: int, instances: int, world: int, position: int
) -> None:
    for rank in range(world):
        sampler = batch_sampler(kind, images, identities, instances, rank, world)
        assert has_passes(sampler)
        expected = [list(map(int, batch)) for batch in itertools.islice(sampler, 60)]
        starts: list[PassStart] = []
        assert drawn(sampler, 0, 60, starts) == expected
        # From a pass before it, and with nothing known.
        for known in (starts, []):
            assert drawn(sampler, position, 60 - position, known) == expected[position:]


IMAGES = [("", pid, camera) for pid in range(12) for camera in range(4)]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_pass_at_hand_is_drawn_again(kind: Any) -> None:
    sampler = batch_sampler(kind, IMAGES, 4, 2)
    starts: list[PassStart] = []
    straight = drawn(sampler, 0, 1000, starts)
    known = [start for start in starts if start.batch <= 990][-1:]
    assert drawn(sampler, 990, 1, known) == straight[990:991]
    assert known[0].batch > 980
    # Without it, as from an old checkpoint, all of them are.
    assert drawn(sampler, 990, 1, known := []) == straight[990:991]
    assert known[0].batch == 0


@pytest.mark.parametrize(
    "other",
    [
        {"images": IMAGES[1:]},
        {"images": [(path, pid, 0) for path, pid, _ in IMAGES]},
        {"kind": BalancedIdentitySampler},
        {"identities": 3},
        {"identities": 2, "instances": 4},
    ],
)
def test_a_start_of_another_stream_is_not_used(other: dict[str, Any]) -> None:
    own = {"kind": NaiveIdentitySampler, "images": IMAGES, "identities": 4, "instances": 2}
    starts: list[PassStart] = []
    drawn(batch_sampler(**own), 0, 200, starts)
    changed = batch_sampler(**{**own, **other})
    expected = [list(map(int, batch)) for batch in itertools.islice(changed, 200)]
    assert drawn(changed, 150, 50, starts) == expected[150:]


def test_other_samplers_keep_their_own_way() -> None:
    class Own(NaiveIdentitySampler):
        pass

    assert not has_passes(BatchSampler(range(9), 3, True))
    assert not has_passes(batch_sampler(Own, IMAGES, 4, 2))
    # One whose batches are not the loader's.
    assert not has_passes(
        BatchSampler(batch_sampler(NaiveIdentitySampler, IMAGES, 4, 2).sampler, 4, True)
    )


def test_a_long_way_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Numbers:
        def __iter__(self) -> Iterator[list[int]]:
            return ([number] for number in itertools.count())

    monkeypatch.setattr(resumable, "_REPORT_SECONDS", 0.0)
    # The plugin's log goes to fastreid's, which has no handler here.
    monkeypatch.setattr(logging.getLogger("metabin_plugin"), "parent", logging.getLogger())
    with caplog.at_level("INFO"):
        batch = next(draw_batches(Numbers(), StreamSeeds(1, None), 4, []))
    assert [draw.image for draw in batch] == [4]
    assert [record.getMessage() for record in caplog.records] == [
        f"Running the sampler forward to batch 4: {percent} %" for percent in (0, 25, 50, 75)
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"data": "1"},
        {"data": None},
        {"batch": -1},
        {"batch": 1.0},
        {"position": 625},
        {"position": -1},
        {"key": [0] * 624},
        {"key": torch.zeros(623, dtype=torch.int64)},
        {"key": torch.zeros(624)},
        {"key": torch.full((624,), 2**32)},
        {"key": torch.full((624,), -1)},
    ],
    ids=str,
)
def test_what_is_not_the_start_of_a_pass_is_refused(change: dict[str, Any]) -> None:
    state = {"data": 1, "batch": 7, "key": torch.zeros(624, dtype=torch.int64), "position": 624}
    assert read_start(state).batch == 7
    with pytest.raises(ValueError, match="not the start of a pass"):
        read_start({**state, **change})
    for other in (None, [], {}, 3):
        with pytest.raises(ValueError, match="not the start of a pass"):
            read_start(other)
