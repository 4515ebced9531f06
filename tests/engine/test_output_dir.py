"""Trainings and evaluations that meet in one OUTPUT_DIR, and folders that come and go."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.engine import default_setup

from metabin_plugin.engine import read_config, train_or_evaluate
from metabin_plugin.errors import ConfigError, MetaBINError, RunFolderError, WeightsError
from tests.engine.noisy_run import noisy_options, noisy_trainer, register
from tests.engine.tiny_data import CONFIGS

BRIEF: dict[str, Any] = {
    "SOLVER__MAX_EPOCH": 1,
    "SOLVER__CHECKPOINT_ITERS": 0,
    "TEST__EVAL_PERIOD": 1,
}


def arguments(options: list[str], **flags: bool) -> argparse.Namespace:
    given = {"resume": False, "eval_only": False, **flags}
    return argparse.Namespace(
        config_file=str(CONFIGS / "MetaBIN.yml"), opts=options, num_gpus=1, **given
    )


def run(options: list[str], **flags: bool) -> Any:
    register()
    return train_or_evaluate(arguments(options, **flags))


def set_up(options: list[str], **flags: bool) -> None:
    """What a script of fastreid does before it makes a trainer."""
    given = arguments(options, **flags)
    default_setup(read_config(given.config_file, given.opts), given)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def iterations(folder: Path) -> list[int]:
    lines = (folder / "metrics.json").read_text().splitlines()
    return [json.loads(line)["iteration"] for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Folder of a finished run, and the options of another one in it."""
    folder = tmp_path_factory.mktemp("finished")
    run(noisy_options(folder, **BRIEF))
    return folder / "out", noisy_options(folder, **BRIEF, METABIN__SEED=5)


@pytest.mark.parametrize("act", [run, set_up])
def test_a_second_run_is_refused_before_it_writes(
    finished: tuple[Path, list[str]], act: Any
) -> None:
    folder, options = finished
    before = contents(folder)
    with pytest.raises(RunFolderError, match=r"OUTPUT_DIR .* holds a run already"):
        act(options)
    assert contents(folder) == before


def test_a_trainer_without_setup_is_refused_before_it_trains(
    finished: tuple[Path, list[str]],
) -> None:
    folder, options = finished
    before = contents(folder)
    trainer = noisy_trainer(options)
    with pytest.raises(RunFolderError, match=r"OUTPUT_DIR .* holds a run already"):
        trainer.train()
    # The log says what the trainer is made of.
    for name in before.keys() - {"log.txt"}:
        assert (folder / name).read_bytes() == before[name], name


def test_resuming_as_another_run_leaves_its_config(finished: tuple[Path, list[str]]) -> None:
    folder, options = finished
    before = contents(folder)
    with pytest.raises(ConfigError, match=r"METABIN\.SEED"):
        run(options, resume=True)
    for name in ("config.yaml", "metrics.json", "model_final.pth", "results.json"):
        assert (folder / name).read_bytes() == before[name], name


def test_an_evaluation_may_share_the_folder(tmp_path: Path) -> None:
    options = noisy_options(tmp_path, **BRIEF)
    trained = run(options)
    before = contents(tmp_path / "out")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth")]
    assert run([*options, *weights], eval_only=True) == trained
    for name in ("config.yaml", "metrics.json", "results.json"):
        assert (tmp_path / "out" / name).read_bytes() == before[name], name
    # It goes on as if nothing had been, and its config is that of now.
    longer = [*options, "SOLVER.MAX_EPOCH", "2"]
    run(longer, resume=True)
    assert iterations(tmp_path / "out") == [4, 9]
    assert "MAX_EPOCH: 2" in (tmp_path / "out" / "config.yaml").read_text()


def test_a_run_that_left_no_checkpoint_starts_anew(tmp_path: Path, plugin_log: Any) -> None:
    options = noisy_options(tmp_path, **BRIEF)
    run(options)
    folder = tmp_path / "out"
    for path in [*folder.glob("*.pth"), folder / "last_checkpoint"]:
        path.unlink()
    (folder / "metrics.json").write_text('{"iteration": 3}\n{"iteration": 199}\n')
    with pytest.raises(RunFolderError, match=r"metrics\.json"):
        run(options)
    run(options, resume=True)
    assert "has no checkpoint to go on from: the run starts anew" in plugin_log.text
    assert iterations(folder) == [4]
    assert torch.load(folder / "model_final.pth", weights_only=True)["epoch"] == 0


def test_a_run_that_began_nothing_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("config.yaml", "log.txt", "metrics.json"):
        (tmp_path / "out" / name).write_text("A: 1\n" if name == "config.yaml" else "")
    run(noisy_options(tmp_path, **BRIEF))
    assert "MAX_EPOCH: 1" in (tmp_path / "out" / "config.yaml").read_text()


def test_a_folder_that_is_removed_ends_the_run_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = noisy_trainer(noisy_options(tmp_path))
    step = trainer.run_step

    def remove_and_step() -> None:
        if trainer.iter == 3:
            shutil.rmtree(tmp_path / "out")
        step()

    monkeypatch.setattr(trainer, "run_step", remove_and_step)
    with pytest.raises(RunFolderError, match=r"OUTPUT_DIR .* was removed or renamed"):
        trainer.train()


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("act", [run, set_up])
@pytest.mark.parametrize("name", ["config.yaml", "log.txt", "metrics.json", "last_checkpoint"])
def test_links_are_not_written_through(tmp_path: Path, name: str, act: Any, resume: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    for flags in ({"resume": resume}, {"eval_only": True}):
        with pytest.raises(RunFolderError, match=f"{name} is a link"):
            act([*noisy_options(tmp_path), "MODEL.WEIGHTS", "none.pth"], **flags)
    with pytest.raises(RunFolderError, match=f"{name} is a link"):
        noisy_trainer(noisy_options(tmp_path))
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert os.listdir(tmp_path / "out") == [name]


@pytest.mark.parametrize("path", ["../other/model_final.pth", "{}/other/model_final.pth", ".", ""])
def test_a_checkpoint_in_another_folder_is_not_resumed_from(
    finished: tuple[Path, list[str]], tmp_path: Path, path: str
) -> None:
    shutil.copytree(finished[0], tmp_path / "other")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last_checkpoint").write_text(path.format(tmp_path))
    with pytest.raises(WeightsError, match=r"last_checkpoint"):
        noisy_trainer(noisy_options(tmp_path, **BRIEF), resume=True)


@pytest.mark.parametrize("eval_only", [True, False])
def test_a_file_in_the_place_of_the_folder(tmp_path: Path, eval_only: bool) -> None:
    options = noisy_options(tmp_path, **BRIEF, MODEL__WEIGHTS="none.pth")
    (tmp_path / "out").write_text("precious")
    for act in (run, set_up):
        with pytest.raises(MetaBINError, match=r"OUTPUT_DIR .* cannot be written"):
            act(options, eval_only=eval_only)
    assert (tmp_path / "out").read_text() == "precious"
