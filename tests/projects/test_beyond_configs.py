"""The configs of projects/Beyond: each is whole, and trains."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from fastreid.config import CfgNode, get_cfg

from metabin_plugin.config.check import check_config
from metabin_plugin.config.reading import read_config
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import ConfigError
from tests.engine.tiny_data import tiny_options
from tests.processes import run_script

CONFIGS = Path(__file__).parents[2] / "projects" / "Beyond" / "configs"


def tiny(folder: Path, name: str, *extra: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / name))
    cfg.merge_from_list([*tiny_options(folder), *extra])
    return cfg


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yml")), ids=lambda path: path.name)
def test_every_config_passes(path: Path) -> None:
    check_config(read_config(str(path), ["MODEL.DEVICE", "cpu"]))


def flat(node: CfgNode, prefix: str = "") -> dict[str, object]:
    """Value by the key's whole name."""
    values: dict[str, object] = {}
    for name, value in node.items():
        inner = isinstance(value, CfgNode)
        values |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return values


def test_bau_is_the_strong_recipes_and_nothing_else_of_it() -> None:
    paper, strong = (
        flat(read_config(str(CONFIGS.parents[2] / "configs" / name), []))
        for name in ("MetaBIN.yml", "MetaBIN-strong.yml")
    )
    bau = flat(read_config(str(CONFIGS / "MetaBIN-BAU.yml"), []))
    changed = {key for key, value in bau.items() if value != paper[key]}
    flips = {"INPUT.FLIP.ENABLED", "INPUT.PADDING.ENABLED"}
    assert changed == flips | {"METABIN.BASE_LOSSES", "OUTPUT_DIR"}
    theirs = {key for key, value in bau.items() if value != strong[key]}
    assert theirs == flips | {"MODEL.LOSSES.TRI.NORM_FEAT", "OUTPUT_DIR"}


def test_the_modern_recipe_trains_its_pooling_with_a_falling_rate(tmp_path: Path) -> None:
    more = ("SOLVER.MAX_EPOCH", "4", "TEST.EVAL_PERIOD", "0")
    trainer = MetaBINTrainer(tiny(tmp_path, "MetaBIN-modern.yml", *more))
    exponent = trainer.network.heads.pool_layer.p
    before = exponent.detach().clone()
    rates: list[float] = []
    optimizer = trainer.optimizer
    optimizer.register_step_pre_hook(
        lambda *_arguments: rates.append(optimizer.param_groups[0]["lr"])
    )
    trainer.train()
    assert not torch.equal(before, exponent)
    # One epoch of warm-up; then the cosine, at its end in the last epoch.
    assert rates[2] == rates[3] > rates[4] == rates[5] > rates[6]
    assert rates[6] == rates[7] == pytest.approx(trainer.cfg.SOLVER.ETA_MIN_LR)


def test_a_cosine_without_an_epoch_is_refused(tmp_path: Path) -> None:
    cfg = tiny(tmp_path, "BN-modern.yml", "SOLVER.WARMUP_ITERS", "4")
    with pytest.raises(ConfigError, match="leave it none of the 2 epochs"):
        MetaBINTrainer(cfg)


@pytest.mark.slow
def test_the_export_has_the_pooling_and_no_mixing(tmp_path: Path) -> None:
    options = [*tiny_options(tmp_path), "INPUT.SIZE_TEST", "[64, 32]"]
    network = MetaBINTrainer.build_model(tiny(tmp_path, "MetaBIN-modern.yml", *options))
    torch.save({"model": network.state_dict()}, tmp_path / "trained.pth")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "trained.pth")]
    files = [tmp_path / name for name in ("plain.onnx", "mixing.onnx")]
    for file, mixing in zip(files, ("0.0", "1.0"), strict=True):
        config = ["--config-file", CONFIGS / "MetaBIN-modern.yml", "--output", file]
        mixes = ["METABIN.MIXSTYLE.PROBABILITY", mixing]
        done = run_script("tools/export_onnx.py", *config, *options, *weights, *mixes)
        assert done.returncode == 0, done.stderr
    operators = [Counter(node.op_type for node in onnx.load(file).graph.node) for file in files]
    assert operators[0] == operators[1]
    assert operators[0]["Pow"] >= 2
