"""Budgets: what they set, and what they must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from metabin_plugin.errors import ConfigError
from papertables.rows import read_budget


def write(folder: Path, text: str) -> Path:
    path = folder / "budget.yml"
    path.write_text(text)
    return path


def test_a_protocol_is_merged_over_all(tmp_path: Path) -> None:
    text = "ABOUT: Small.\nALL: {SOLVER: {MAX_EPOCH: 2, IMS_PER_BATCH: 8}}\n"
    text += "dg: {SOLVER: {IMS_PER_BATCH: 40}}\n"
    budget = read_budget(write(tmp_path, text))
    assert budget.about == "Small."
    assert budget.settings("dg/BN") == {"SOLVER.MAX_EPOCH": 2, "SOLVER.IMS_PER_BATCH": 40}
    assert budget.covers("dg/BN")
    assert not budget.covers("supervised/BN")


def test_a_row_may_have_more_than_the_others(tmp_path: Path) -> None:
    text = "dg: {SOLVER: {MAX_EPOCH: 2, IMS_PER_BATCH: 8}}\n"
    text += "ROWS: {dg/BN: {SOLVER: {MAX_EPOCH: 3}, TEST: {EVAL_PERIOD: 1}}}\n"
    budget = read_budget(write(tmp_path, text))
    shared = {"SOLVER.MAX_EPOCH": 2, "SOLVER.IMS_PER_BATCH": 8}
    assert budget.settings("dg/MetaBIN") == shared
    assert budget.settings("dg/BN") == {**shared, "SOLVER.MAX_EPOCH": 3, "TEST.EVAL_PERIOD": 1}


def test_a_row_keeps_what_makes_it(tmp_path: Path) -> None:
    text = "dg: {SOLVER.MAX_EPOCH: 1}\nROWS: {dg/BN-MLDG-fixed: {METABIN.HOOKS: 1}}\n"
    with pytest.raises(ConfigError, match=r"the budget sets METABIN\.HOOKS, which makes row"):
        read_budget(write(tmp_path, text)).settings("dg/BN-MLDG-fixed")


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ("dg/BN-MLDG-fixed", "METABIN.INNER_LR.LOW"),
        ("dg/BN-MLDG-fixed", "METABIN.HOOKS"),
        ("dg/BN-MLDG-fixed", "MODEL.BACKBONE.NORM"),
        ("dg/MetaBIN-images-4", "METABIN.IMS_PER_BATCH"),
    ],
)
def test_what_makes_a_row_is_not_overruled(tmp_path: Path, row: str, key: str) -> None:
    budget = read_budget(write(tmp_path, f"dg: {{{key}: 1, SOLVER.MAX_EPOCH: 1}}"))
    with pytest.raises(ConfigError, match=f"the budget sets {key}, which makes row '{row}'"):
        budget.settings(row)
    assert budget.settings("dg/MetaBIN") == {key: 1, "SOLVER.MAX_EPOCH": 1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ALL: {}", "has the sections ALL; beside ABOUT and ALL give one or more of dg"),
        ("other: {}", "has the sections other;"),
        ("dg: {}\nother: {}", "has the sections dg, other;"),
        ("[1, 2]", "holds no KEY: VALUE mapping"),
        ("", "holds no KEY: VALUE mapping"),
        ("dg: [1]", "dg holds no KEY: VALUE mapping"),
        ("dg: {", "cannot be read"),
        ("dg: {}\nROWS: [1]", "ROWS holds no KEY: VALUE mapping"),
        ("dg: {}\nROWS: {dg/BN: 2}", "dg/BN holds no KEY: VALUE mapping"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_budget(write(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yml cannot be read: .*No such file"):
        read_budget(tmp_path / "absent.yml")
