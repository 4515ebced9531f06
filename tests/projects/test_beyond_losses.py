"""The configs with further losses in the base step: as their papers have them, and they train."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastreid.config import CfgNode, get_cfg

from metabin_plugin.config.check import check_config
from metabin_plugin.engine import MetaBINTrainer
from tests.distributed import small_backbone
from tests.engine.tiny_data import tiny_options

CONFIGS = Path(__file__).parents[2] / "projects" / "Beyond" / "configs"
ADDED = {
    "MetaBIN-BAU.yml": ("loss_alignment", "loss_uniformity", "loss_domainuniformity"),
    "MetaBIN-IL.yml": ("loss_interleavedmemory",),
}


def config(name: str, *options: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / name))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *options])
    return cfg


@pytest.mark.parametrize("name", ADDED)
def test_meta_learning_is_the_papers(name: str) -> None:
    cfg, paper = config(name), get_cfg()
    paper.merge_from_file("configs/MetaBIN.yml")
    check_config(cfg)
    assert cfg.METABIN.HOOKS == paper.METABIN.HOOKS
    assert cfg.MODEL.BACKBONE == paper.MODEL.BACKBONE
    assert cfg.SOLVER == paper.SOLVER


@pytest.mark.parametrize("name", ADDED)
def test_it_trains(tmp_path: Path, name: str) -> None:
    options = [*tiny_options(tmp_path), *small_backbone.OPTIONS, "TEST.EVAL_PERIOD", "0"]
    layers = ["METABIN.INTERLEAVED_MEMORY.LAYERS", '("2",)']
    trainer = MetaBINTrainer(config(name, *options, *layers))
    trainer.train()
    assert {*ADDED[name]} <= trainer.storage.histories().keys()
