"""AugMining end to end: the project's command, and runs that go on from a checkpoint."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import augmining
from metabin_plugin.engine import MetaBINTrainer, read_config
from tests.distributed.processes import run_ranks
from tests.engine.noisy_run import noisy_options, noisy_trainer
from tests.engine.test_resume import difference, every_checkpoint_leads_to, outcome
from tests.engine.tiny_data import tiny_options
from tests.processes import run_script

PROJECT = Path(augmining.__file__).parents[1]
CONFIG = PROJECT / "configs" / "AugMining-demo.yml"


def run(options: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    return run_script(PROJECT / "train_net.py", "--config-file", CONFIG, *flags, *options)


def scalars(folder: Path, name: str) -> list[float]:
    lines = (folder / "metrics.json").read_text().splitlines()
    return [line[name] for line in map(json.loads, lines) if name in line]


@pytest.mark.slow
def test_evaluation_alone_repeats_the_results_of_training(tmp_path: Path) -> None:
    options = [*tiny_options(tmp_path), "AUGMINING.MAX_RANK", "12"]
    done = run(options)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert any(scalars(out, "replaced_hard_images"))
    results = json.loads((out / "results.json").read_text())
    options += ["MODEL.WEIGHTS", str(out / "model_final.pth"), "OUTPUT_DIR", str(tmp_path / "new")]
    done = run(options, "--eval-only")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == results


def train(_rank: int, options: list[str]) -> None:
    trainer = MetaBINTrainer(read_config(str(CONFIG), options))
    trainer.resume_or_load(False)
    trainer.train()


@pytest.mark.slow
def test_two_processes_train(tmp_path: Path) -> None:
    options = [*tiny_options(tmp_path), "SOLVER.MAX_EPOCH", "1", "TEST.EVAL_PERIOD", "0"]
    (tmp_path / "out").mkdir()
    run_ranks(tmp_path / "ranks", 2, train, [*options, "DATALOADER.NUM_INSTANCE", "2"])
    assert scalars(tmp_path / "out", "replaced_hard_images")


@pytest.mark.slow
def test_a_bad_value_is_one_line_and_status_1(tmp_path: Path) -> None:
    done = run([*tiny_options(tmp_path), "AUGMINING.AUGMENTATIONS", "('mirror',)"])
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "AUGMINING.AUGMENTATIONS is 'mirror'; choose among crop" in last
    assert "Traceback" not in done.stderr


CHANGES: dict[str, Any] = {
    "MODEL__META_ARCHITECTURE": "AugMining",
    "METABIN__HOOKS": ("NoisyHook",),
    "AUGMINING__MAX_RANK": 6,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"MODEL__BACKBONE__NORM": "BN"},
        {"MODEL__BACKBONE__NORM": "BIN", "SOLVER__AMP__ENABLED": True},
    ],
    ids=["BN", "BIN in bfloat16"],
)
def test_every_checkpoint_leads_to_the_same_end(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / "straight"
    options = noisy_options(
        tmp_path, OUTPUT_DIR=folder, SOLVER__CHECKPOINT_KEEP=0, **CHANGES, **changes
    )
    noisy_trainer(options).train()
    expected = outcome(folder)
    assert any(scalars(folder, "replaced_hard_images"))
    assert any(scalars(folder, "excessive_copies"))
    every_checkpoint_leads_to(expected, folder, options)


@pytest.mark.slow
def test_it_learns_from_other_images_than_baseline(tmp_path: Path) -> None:
    weights = []
    for fraction in (0.0, 0.5):
        folder = tmp_path / str(fraction)
        options = noisy_options(
            tmp_path, OUTPUT_DIR=folder, AUGMINING__HARD_FRACTION=fraction, **CHANGES
        )
        noisy_trainer(options).train()
        weights.append(torch.load(folder / "model_final.pth", weights_only=True)["model"])
    assert difference(*weights)
