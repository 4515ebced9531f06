"""The domain split: a partition, reproducible, and fair."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabin_plugin.meta import split_domains


@given(st.data())
def test_it_is_a_partition_of_the_domains(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    train_count = data.draw(st.integers(1, count - 1))
    seed, iteration = data.draw(st.integers(0, 2**31)), data.draw(st.integers(0, 10**6))
    train, test = split_domains(count, train_count, seed, iteration)
    assert len(train) == train_count
    assert sorted(train + test) == list(range(count))
    assert (train, test) == split_domains(count, train_count, seed, iteration)


def test_every_split_comes_equally_often() -> None:
    splits = Counter(tuple(split_domains(5, 3, 7, i)[0]) for i in range(5000))
    assert len(splits) == 10
    assert all(400 < times < 600 for times in splits.values())


def test_seeds_differ() -> None:
    assert [split_domains(5, 3, 1, i) for i in range(20)] != [
        split_domains(5, 3, 2, i) for i in range(20)
    ]


@pytest.mark.parametrize("train", [0, 5, 6])
def test_an_empty_side_is_refused(train: int) -> None:
    with pytest.raises(ValueError, match="num_meta_train must be in"):
        split_domains(5, train, 0, 0)
