"""The inner step size against the reference's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metabin_plugin.meta import triangular

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cyclic_lr.json").read_text())


@pytest.mark.parametrize("key", [key for key in GOLDEN if not key.startswith("_")])
def test_equals_the_reference(key: str) -> None:
    case = GOLDEN[key]
    for number, ratio in zip(case["meta_step_number"], case["cyclic_ratio"], strict=True):
        assert triangular(number, case["period_iters"], 0.001, 0.1) == pytest.approx(
            ratio, rel=1e-12
        )
    for number, step in zip(case["meta_step_number"], case["effective_inner_step"], strict=True):
        assert triangular(number, case["period_iters"], 1e-4, 1e-2) == pytest.approx(
            step, rel=1e-12
        )


def test_a_fixed_step_size_has_equal_ends() -> None:
    assert {triangular(i, 7, 0.05, 0.05) for i in range(20)} == {0.05}


def test_both_ends_are_reached_and_nothing_lies_outside() -> None:
    values = [triangular(i, 10, 0.001, 0.1) for i in range(40)]
    assert min(values) == 0.001
    assert max(values) == pytest.approx(0.1)


def test_a_period_of_one_iteration_stays_low() -> None:
    assert triangular(3, 1, 0.001, 0.1) == 0.001


def test_a_period_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="period must be at least 1"):
        triangular(0, 0.5, 0.0, 1.0)
