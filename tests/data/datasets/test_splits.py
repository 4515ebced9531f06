"""The ten splits on the sizes of the real datasets, without images."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabin_plugin.data.splits import (
    NUM_SPLITS,
    cross_camera_images,
    draw_queries,
    one_camera_split,
    paired_identities,
    single_shot_split,
)

VIPER = ([*range(632)] * 2, [0] * 632 + [1] * 632)
PRID = (
    [*range(1, 201), *range(-385, -200), *range(1, 201), *range(201, 750)],
    [0] * 385 + [1] * 749,
)
GRID = ([*range(1, 251), *range(1, 251), *([0] * 775)], [0] * 250 + [1] * 1025)
ILIDS = [1 + i % 119 for i in range(476)]


def cross_camera_split(name: str, index: int, identities: list[int], cameras: list[int]):
    queries = draw_queries(name, index, paired_identities(identities, cameras))
    return cross_camera_images(queries, identities, cameras)


@pytest.mark.parametrize(
    ("name", "people", "queries", "gallery_size"),
    [("viper", VIPER, 316, 316), ("prid", PRID, 100, 649), ("grid", GRID, 125, 900)],
)
def test_cross_camera_counts(name, people, queries, gallery_size):
    identities, cameras = people
    for index in range(NUM_SPLITS):
        query, gallery = cross_camera_split(name, index, identities, cameras)
        assert (len(query), len(gallery)) == (queries, gallery_size)
        assert {cameras[i] for i in query} == {0}
        assert {cameras[i] for i in gallery} == {1}
        asked = sorted(identities[i] for i in query)
        assert len(set(asked)) == queries
        assert sum(identities[i] in set(asked) for i in gallery) == queries


def test_unpaired_gallery_is_always_there():
    _, gallery = cross_camera_split("prid", 3, *PRID)
    assert {PRID[0][i] for i in gallery} >= set(range(201, 750))


def test_one_camera_counts():
    for index in range(NUM_SPLITS):
        query, gallery = one_camera_split("ilids", index, ILIDS)
        assert len(query) == len(gallery) == 60
        assert [ILIDS[i] for i in query] == [ILIDS[i] for i in gallery]
        assert len({ILIDS[i] for i in query}) == 60
        assert not set(query) & set(gallery)


def test_identities_with_one_image_are_never_drawn():
    query, gallery = one_camera_split("ilids", 0, [7, 7, 8, 9, 9, 9])
    drawn = {[7, 7, 8, 9, 9, 9][i] for i in query + gallery}
    assert len(query) == 1
    assert 8 not in drawn


def test_splits_differ_by_index_and_name():
    splits = [cross_camera_split("viper", index, *VIPER) for index in range(NUM_SPLITS)]
    assert len({tuple(query) for query, _ in splits}) == NUM_SPLITS
    assert cross_camera_split("other", 0, *VIPER) != splits[0]


def test_every_image_can_become_a_query():
    positions = [p for k in range(NUM_SPLITS) for p in one_camera_split("ilids", k, ILIDS)[0]]
    assert {p // 119 for p in positions} == {0, 1, 2, 3}
    asked = {p for k in range(NUM_SPLITS) for p in cross_camera_split("viper", k, *VIPER)[0]}
    # One identity escapes all ten draws with probability 2 ** -10.
    assert len(asked) > 620


@pytest.mark.parametrize(
    ("name", "split", "data", "digest"),
    [
        ("viper", cross_camera_split, VIPER, "510f3f645021ddc1"),
        ("prid", cross_camera_split, PRID, "209cd4ee6dac5da7"),
        ("grid", cross_camera_split, GRID, "b91e2f56e601e903"),
        ("ilids", one_camera_split, (ILIDS,), "b864e38b13e6c44a"),
    ],
)
def test_splits_are_frozen(name, split, data, digest):
    """Published numbers depend on these splits: if this fails, the benchmark has changed."""
    text = json.dumps([split(name, index, *data) for index in range(NUM_SPLITS)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


# Images as (identity, camera), in any order and number.
people = st.integers(0, 6)
two_cameras = st.lists(st.tuples(people, st.integers(0, 1)), max_size=30)
any_cameras = st.lists(st.tuples(people, st.integers(0, 3)), max_size=30)
indices = st.integers(0, NUM_SPLITS - 1)


@given(st.sets(people), st.sets(people), st.randoms(), indices)
def test_cross_camera_property(side_a, side_b, order, index):
    images = [(p, 0) for p in side_a] + [(p, 1) for p in side_b]
    order.shuffle(images)
    identities, cameras = [p for p, _ in images], [c for _, c in images]
    query, gallery = cross_camera_split("any", index, identities, cameras)
    tested = {identities[i] for i in query}
    assert len(tested) == len(query) == len(side_a & side_b) // 2
    assert {identities[i] for i in gallery} == tested | (side_b - side_a)
    assert {cameras[i] for i in query} <= {0} and {cameras[i] for i in gallery} <= {1}
    # The rest is for training; whether an identity is tested does not depend on the images' order.
    assert tested == set(draw_queries("any", index, sorted(side_a & side_b)))


@given(two_cameras, indices)
def test_cross_camera_takes_all_images_of_an_identity(images, index):
    identities, cameras = [p for p, _ in images], [c for _, c in images]
    query, gallery = cross_camera_split("any", index, identities, cameras)
    tested = {identities[i] for i in query}
    rest = {p for p, c in images if c == 0} - tested
    assert query == [i for i, (p, c) in enumerate(images) if c == 0 and p in tested]
    assert gallery == [i for i, (p, c) in enumerate(images) if c == 1 and p not in rest]


@given(st.lists(people, max_size=30), indices)
def test_one_camera_property(identities, index):
    query, gallery = one_camera_split("any", index, identities)
    eligible = {p for p in identities if identities.count(p) > 1}
    tested = [identities[i] for i in query]
    assert tested == [identities[i] for i in gallery] == sorted(set(tested))
    assert len(tested) == -(-len(eligible) // 2)
    assert set(tested) <= eligible
    assert not set(query) & set(gallery)


@given(any_cameras, indices)
def test_single_shot_property(images, index):
    identities, cameras = [p for p, _ in images], [c for _, c in images]
    query, gallery = single_shot_split("any", index, identities, cameras)
    seen = {p: {c for q, c in images if q == p} for p in identities}
    eligible = {p for p, c in seen.items() if len(c) > 1}
    tested = [identities[i] for i in query]
    assert tested == sorted(set(tested)) and set(tested) <= eligible
    assert len(tested) == -(-len(eligible) // 2)
    matches, rest = gallery[: len(query)], gallery[len(query) :]
    assert [identities[i] for i in matches] == tested
    assert all(cameras[q] != cameras[g] for q, g in zip(query, matches, strict=True))
    assert rest == [i for i, p in enumerate(identities) if p not in eligible]
    assert len({*query, *gallery}) == len(query) + len(gallery)
    assert single_shot_split("any", index, identities, cameras) == (query, gallery)


def test_single_shot_splits_differ_and_use_all_images():
    identities, cameras = [i // 4 for i in range(80)], [i % 4 for i in range(80)]
    splits = [single_shot_split("any", k, identities, cameras) for k in range(NUM_SPLITS)]
    assert len({str(split) for split in splits}) == NUM_SPLITS
    assert {i % 4 for query, _ in splits for i in query} == {0, 1, 2, 3}
    # Every other camera is met, not only the next.
    pairs = [pair for split in splits for pair in zip(*split, strict=True)]
    assert len({(query % 4, match % 4) for query, match in pairs}) == 12
