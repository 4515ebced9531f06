"""Which index a number of vectors gets, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from metabin_plugin.errors import SearchError
from metabin_plugin.search.engine import Plan, plan_index


@pytest.mark.parametrize(
    ("count", "plan"),
    [
        (1, Plan("flat")),
        (200_000, Plan("flat")),
        (200_001, Plan("ivf", 2048, 45, 0, 131_072)),
        (1_000_000, Plan("ivf", 4096, 64, 0, 262_144)),
        (2_000_001, Plan("ivf-pq", 4096, 64, 64, 262_144)),
        (10**9, Plan("ivf-pq", 131_072, 362, 64, 8_388_608)),
    ],
)
def test_kind_and_parameters_follow_the_size(count: int, plan: Plan) -> None:
    assert plan_index(count, 512) == plan


def test_small_galleries_can_have_lists_too() -> None:
    assert plan_index(5, 8, "ivf") == Plan("ivf", 1, 1, 0, 5)
    # 39 vectors for each list, where the power of two would leave fewer.
    assert plan_index(20_000, 8, "ivf").lists == 512
    assert plan_index(2_000, 8, "ivf") == Plan("ivf", 51, 8, 0, 2_000)
    assert plan_index(20_000, 8, "ivf-pq").training == 20_000


@pytest.mark.parametrize(
    ("dimension", "size"), [(512, 64), (1792, 224), (100, 10), (13, 1), (4, 1)]
)
def test_a_code_has_a_byte_for_eight_dimensions_or_more(dimension: int, size: int) -> None:
    assert plan_index(10_000, dimension, "ivf-pq").code_bytes == size


def test_what_is_given_is_taken() -> None:
    plan = plan_index(1000, 12, "ivf-pq", lists=7, probes=3, code_bytes=6, training=300)
    assert plan == Plan("ivf-pq", 7, 3, 6, 300)
    assert plan.factory == "IVF7,PQ6np"
    assert (
        str(plan) == "ivf-pq, 7 lists of 6-byte codes, 3 of them searched, trained on 300 vectors"
    )


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("flat", {"lists": 4}, "--lists is 4, but an index of kind flat has no use"),
        ("auto", {"probes": 1}, "--probes is 1, but an index of kind flat"),
        ("ivf", {"code_bytes": 4}, "--bytes is 4, but an index of kind ivf"),
        ("ivf", {"lists": 0}, "--lists is 0; give at least 1"),
        ("ivf", {"lists": 4, "probes": 5}, "--probes is 5, but there are 4 lists"),
        ("ivf", {"training": 1001}, "--training is 1001, but there are 1000 vectors"),
        ("ivf", {"lists": 500, "training": 499}, "499 vectors to train on are too few"),
        ("ivf-pq", {"code_bytes": 5}, "does not divide the dimension 12"),
        ("ivf-pq", {"training": 255}, "it takes 256"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(SearchError, match=re.escape(words)):
        plan_index(1000, 12, kind, **given)
