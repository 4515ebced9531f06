"""DIMN end to end: training, evaluation of its checkpoint, resuming, several processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg

from dimn import DIMNTrainer
from tests.distributed.processes import run_ranks
from tests.engine.test_resume import difference, outcome
from tests.engine.tiny_data import CONFIGS, tiny_options
from tests.processes import run_script

PROJECT = CONFIGS.parent / "projects" / "DIMN"
CONFIG = PROJECT / "configs" / "DIMN-demo.yml"


def config(folder: Path, *extra: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list([*tiny_options(folder), *extra])
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    return cfg


def train(cfg: CfgNode, resume: bool = False) -> None:
    trainer = DIMNTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()


def run(*arguments: str) -> None:
    """Run the project's command."""
    done = run_script(PROJECT / "train_net.py", "--config-file", CONFIG, *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_command_trains_and_evaluates_the_checkpoint_to_the_same_numbers(
    tmp_path: Path,
) -> None:
    options = tiny_options(tmp_path)
    run(*options)
    trained = (tmp_path / "out" / "results.json").read_text()
    assert json.loads(trained)
    weights = str(tmp_path / "out" / "model_final.pth")
    again = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / "again")]
    run("--eval-only", *options, *again)
    assert (tmp_path / "again" / "results.json").read_text() == trained
    memory = torch.load(weights, weights_only=True)["model"]
    # Three domains of four identities; two epochs of two iterations meet most of them.
    assert memory["memory.classifiers"].shape == (12, 512)
    assert memory["memory.known"].sum() > 6


@pytest.mark.slow
def test_a_resumed_run_ends_where_the_straight_one_does(tmp_path: Path) -> None:
    more = ("SOLVER.MAX_EPOCH", "3", "SOLVER.CHECKPOINT_ITERS", "1", "TEST.EVAL_PERIOD", "3")
    straight = tmp_path / "straight"
    train(config(tmp_path, *more, "OUTPUT_DIR", str(straight)))
    expected = outcome(straight)
    checkpoint = sorted(path.stem for path in straight.glob("model_i*.pth"))[0]
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    for file in (f"{checkpoint}.pth", "metrics.json"):
        shutil.copy(straight / file, resumed / file)
    (resumed / "last_checkpoint").write_text(f"{checkpoint}.pth")
    train(config(tmp_path, *more, "OUTPUT_DIR", str(resumed)), resume=True)
    assert difference(expected, outcome(resumed)) == ""


def memory_after(rank: int, cfg: CfgNode) -> dict[str, Any]:
    trainer = DIMNTrainer(cfg)
    trainer.train()
    return {name: value.clone() for name, value in trainer.network.memory.state_dict().items()}


@pytest.mark.slow
def test_processes_have_the_same_memory(tmp_path: Path) -> None:
    cfg = config(tmp_path, "TEST.EVAL_PERIOD", "0")
    first, second = run_ranks(tmp_path / "ranks", 2, memory_after, cfg)
    assert first["known"].sum() > 6
    assert torch.equal(first["known"], second["known"])
    assert torch.equal(first["classifiers"], second["classifiers"])
