"""The rows of the paper's tables: each can start, and changes what its name says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fastreid.config import CfgNode, get_cfg

import augmining
import dimn
from metabin_plugin.engine import check_config, read_config
from metabin_plugin.errors import ConfigError
from papertables.rows import ROWS, own_keys, read_budget, row_file, row_names, row_settings
from papertables.tables import read_plan

BUDGETS = ROWS.parent / "budgets"
# Importing them makes their configs known.
PROJECTS = (augmining, dimn)

BN = {
    "MODEL.META_ARCHITECTURE": "Baseline",
    "MODEL.BACKBONE.NORM": "BN",
    "METABIN.HOOKS": (),
}
CE_ALONE = {"MODEL.LOSSES.NAME": ("CrossEntropyLoss",)}
MLDG = {"METABIN.HOOKS": ("MLDGHook",)}
FIXED = {"METABIN.INNER_LR.LOW": 0.1}
JOINT = {"METABIN.EPISODE_SEPARATION": False}
BASELINES = {
    "BN": BN,
    "BIN": {**BN, "MODEL.BACKBONE.NORM": "BIN"},
    "IN": {**BN, "MODEL.BACKBONE.NORM": "IN"},
    "BNINHalf": {**BN, "MODEL.BACKBONE.NORM": "BNINHalf"},
}


def meta_losses(train: tuple[str, ...], test: tuple[str, ...]) -> dict[str, Any]:
    losses = {"METABIN.META_TRAIN_LOSSES": train, "METABIN.META_TEST_LOSSES": test}
    return {**FIXED, **losses}


CE, TRIPLET, SCATTER = "CrossEntropyLoss", "TripletLoss", "ScatterLoss"

# What each row has otherwise than MetaBIN of the same protocol.
DIFFERENCES: dict[str, dict[str, Any]] = {
    "dg/MetaBIN": {},
    **{f"dg/{name}": keys for name, keys in BASELINES.items()},
    "dg/BN-CE": {**BN, **CE_ALONE},
    "dg/BN-CE-MLDG-cyclic": {**BN, **CE_ALONE, **MLDG},
    "dg/BN-CE-MLDG-fixed": {**BN, **CE_ALONE, **MLDG, **FIXED},
    "dg/BN-MLDG-cyclic": {**BN, **MLDG},
    "dg/BN-MLDG-fixed": {**BN, **MLDG, **FIXED},
    "dg/BIN-MLDG-cyclic": {**BASELINES["BIN"], **MLDG},
    "dg/BIN-MLDG-fixed": {**BASELINES["BIN"], **MLDG, **FIXED},
    "dg/MetaBIN-joint-cyclic": JOINT,
    "dg/MetaBIN-joint-fixed": {**JOINT, **FIXED},
    "dg/MetaBIN-fixed": FIXED,
    "dg/MetaBIN-CE-fixed": meta_losses((CE,), (CE,)),
    "dg/MetaBIN-CE-Tr-fixed": meta_losses((CE, TRIPLET), (CE, TRIPLET)),
    "dg/MetaBIN-Tr-fixed": meta_losses((TRIPLET,), (TRIPLET,)),
    "dg/MetaBIN-Tr-Scat-fixed": meta_losses((SCATTER, TRIPLET), (TRIPLET,)),
    "dg/MetaBIN-domains-4-1": {"METABIN.NUM_META_TRAIN": 4},
    "dg/MetaBIN-domains-2-3": {"METABIN.NUM_META_TRAIN": 2},
    "dg/MetaBIN-domains-1-4": {"METABIN.NUM_META_TRAIN": 1},
    **{f"dg/MetaBIN-images-{n}": {"METABIN.IMS_PER_BATCH": 5 * n} for n in (4, 8, 16, 32)},
    "supervised/MetaBIN": {},
    **{f"supervised/{name}": keys for name, keys in BASELINES.items()},
}
# Their differences are those of their projects' configs, which are tested there.
OF_PROJECTS = {"dg/DualNorm", "dg/DIMN", "dg/AugMining", "supervised/DualNorm"}


def values(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        inner = isinstance(value, CfgNode)
        found.update(values(value, f"{prefix}{key}.") if inner else {prefix + key: value})
    return found


def config(row: str) -> CfgNode:
    cfg = read_config(str(row_file(row)), ["MODEL.DEVICE", "cpu"])
    check_config(cfg)
    return cfg


def test_all_rows_are_tested() -> None:
    assert sorted({*DIFFERENCES, *OF_PROJECTS}) == row_names()


@pytest.mark.parametrize("row", sorted(DIFFERENCES))
def test_a_row_can_start_and_changes_what_its_name_says(row: str) -> None:
    base, own = values(config(f"{row.split('/')[0]}/MetaBIN")), values(config(row))
    changed = {key: value for key, value in own.items() if value != base[key]}
    expected = {key: value for key, value in DIFFERENCES[row].items() if value != base[key]}
    assert changed == expected


@pytest.mark.parametrize("row", sorted(OF_PROJECTS))
def test_the_row_of_a_project_can_start_on_the_same_data(row: str) -> None:
    base, own = values(config(f"{row.split('/')[0]}/MetaBIN")), values(config(row))
    for section in ("DATASETS", "DATALOADER", "INPUT", "METABIN.ITERS_PER_EPOCH"):
        keys = [key for key in base if key.startswith(section)]
        assert {key: own[key] for key in keys} == {key: base[key] for key in keys}
    assert own["MODEL.BACKBONE.NAME"] == base["MODEL.BACKBONE.NAME"]


def test_the_dg_base_is_the_papers_experiment() -> None:
    papers = read_config(str(ROWS.parents[2] / "configs" / "MetaBIN.yml"), [])
    own = values(read_config(str(row_file("dg/MetaBIN")), []))
    assert own == values(papers)


def test_supervised_rows_test_on_the_source_with_cameras_as_domains() -> None:
    cfg = config("supervised/MetaBIN")
    assert cfg.DATASETS.NAMES == cfg.DATASETS.TESTS == ("DG_Market1501_Split",)
    assert cfg.METABIN.DOMAIN == "camera"


def test_both_dual_norm_rows_are_the_same_network() -> None:
    dg, supervised = values(config("dg/DualNorm")), values(config("supervised/DualNorm"))
    assert {k: v for k, v in dg.items() if k.startswith("MODEL.")} == {
        k: v for k, v in supervised.items() if k.startswith("MODEL.")
    }


def test_tables_have_every_row_and_no_other() -> None:
    tables = read_plan().tables
    assert {line.row for table in tables.values() for line in table.rows} == set(row_names())
    assert {name: len(table.rows) for name, table in tables.items()} == {
        "table2": 7,
        "table3": 12,
        "table4": 12,
        "fig2": 8,
        "systems": 4,
    }
    for table in tables.values():
        assert all(len(line.labels) == len(table.columns) for line in table.rows)


@pytest.mark.parametrize("name", ["demo", "crops", "paper"])
def test_every_row_is_valid_with_the_budgets(name: str) -> None:
    budget = read_budget(BUDGETS / f"{name}.yml")
    assert budget.about
    rows = [row for row in row_names() if budget.covers(row)]
    assert rows == [row for row in row_names() if name != "crops" or row.startswith("dg/")]
    for row in rows:
        options = [str(part) for pair in budget.settings(row).items() for part in pair]
        check_config(read_config(str(row_file(row)), ["MODEL.DEVICE", "cpu", *options]))


def test_a_row_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'dg/Nothing' does not exist.*dg/MetaBIN"):
        row_settings("dg/Nothing")


def write_rows(folder: Path) -> Path:
    (folder / "rows" / "dg").mkdir(parents=True)
    (folder / "base.yml").write_text("MODEL: {DEVICE: cpu, BACKBONE: {NORM: BIN}}\n")
    (folder / "rows" / "dg" / "one.yml").write_text(
        "_BASE_: ../../base.yml\nMODEL: {BACKBONE: {DEPTH: 18x}}\n"
    )
    (folder / "rows" / "dg" / "two.yml").write_text("_BASE_: one.yml\nTEST: {EVAL_PERIOD: 2}\n")
    return folder / "rows"


def test_settings_are_inherited_and_own_keys_end_at_the_rows(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    assert row_settings("dg/two", rows) == {
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.NORM": "BIN",
        "MODEL.BACKBONE.DEPTH": "18x",
        "TEST.EVAL_PERIOD": 2,
    }
    assert own_keys("dg/two", rows) == {"MODEL.BACKBONE.DEPTH", "TEST.EVAL_PERIOD"}


def test_a_missing_base_is_one_sentence(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    (tmp_path / "base.yml").unlink()
    with pytest.raises(
        ConfigError, match=r"config .*base\.yml, the _BASE_ of .*one\.yml, cannot be read \(No such"
    ):
        row_settings("dg/one", rows)


def test_all_keys_exist() -> None:
    known = values(get_cfg())
    for row in row_names():
        assert own_keys(row) <= set(known)
