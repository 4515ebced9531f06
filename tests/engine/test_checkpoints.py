"""When checkpoints are made, which are kept, and what a failing evaluation leaves."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.utils.events import EventStorage

from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.engine.config_changes import config_changes
from metabin_plugin.engine.event_history import (
    WINDOW,
    RunStorage,
    cut_metrics_file,
    history_state,
)
from metabin_plugin.errors import CheckpointError, DatasetError
from tests.engine.noisy_run import noisy_options, noisy_trainer


def names(folder: Path) -> list[str]:
    return sorted(path.stem.removeprefix("model_") for path in folder.glob("*.pth"))


@pytest.mark.parametrize(
    ("keep", "iters", "period", "expected"),
    [
        (0, 0, 1, ["0000", "0001", "0002", "best", "final"]),
        (1, 0, 1, ["0002", "best", "final"]),
        (2, 4, 10, ["best", "final", "iter_0000012", "iter_0000016"]),
        (0, 5, 2, ["0001", "best", "final", "iter_0000005", "iter_0000015"]),
        (0, 3, 3, ["0002", "best", "final"] + [f"iter_00000{n:02d}" for n in (3, 6, 9, 12, 18)]),
    ],
)
def test_which_checkpoints_are_there(
    tmp_path: Path, keep: int, iters: int, period: int, expected: list[str]
) -> None:
    changes = {"SOLVER__CHECKPOINT_KEEP": keep, "SOLVER__CHECKPOINT_ITERS": iters}
    noisy_trainer(noisy_options(tmp_path, SOLVER__CHECKPOINT_PERIOD=period, **changes)).train()
    assert names(tmp_path / "out") == expected
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_final.pth"


def test_a_former_runs_checkpoints_are_not_removed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model_0099.pth").write_text("another run's")
    noisy_trainer(noisy_options(tmp_path, SOLVER__CHECKPOINT_KEEP=1)).train()
    assert "0099" in names(tmp_path / "out")


def test_an_evaluation_that_fails_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = noisy_options(tmp_path, SOLVER__CHECKPOINT_ITERS=0, SOLVER__CHECKPOINT_PERIOD=9)
    image = tmp_path / "target" / "2_1.png"
    content = image.read_bytes()
    trainer = noisy_trainer(options)
    image.write_bytes(content[:40])
    with pytest.raises(DatasetError, match=r"2_1\.png"):
        trainer.train()
    image.write_bytes(content)
    resumed = noisy_trainer(options, resume=True)
    assert resumed.start_iter == 10
    assert resumed.train()["mAP"] > 0


def test_a_failure_in_the_last_epoch_is_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = noisy_trainer(noisy_options(tmp_path, SOLVER__MAX_EPOCH=1, TEST__EVAL_PERIOD=2))

    def fail() -> None:
        raise DatasetError("the cause")

    monkeypatch.setattr(trainer, "run_step", fail)
    monkeypatch.setattr(MetaBINTrainer, "test", lambda *_: pytest.fail("evaluated"))
    with pytest.raises(DatasetError, match="the cause"):
        trainer.train()


def test_a_hook_that_cannot_start_shows_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = noisy_trainer(noisy_options(tmp_path))

    def fail() -> None:
        raise DatasetError("the cause")

    monkeypatch.setattr(trainer._hooks[0], "before_train", fail)
    with pytest.raises(DatasetError, match="the cause"):
        trainer.train()


def test_a_finished_run_is_evaluated_again(tmp_path: Path) -> None:
    options = noisy_options(tmp_path)
    first = noisy_trainer(options).train()
    weights = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    again = noisy_trainer(options, resume=True)
    assert again.train() == first
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_no_evaluation_with_period_0(tmp_path: Path) -> None:
    assert noisy_trainer(noisy_options(tmp_path, TEST__EVAL_PERIOD=0)).train() is None
    assert not (tmp_path / "out" / "results.json").exists()
    assert "final" in names(tmp_path / "out")


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = noisy_trainer(noisy_options(tmp_path))

    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer._writers[1], "write", write)
    with pytest.raises(CheckpointError, match=r"OUTPUT_DIR .*No space left.*--resume"):
        trainer.train()


def test_changed_keys_are_listed_at_resume(tmp_path: Path, plugin_log: Any) -> None:
    noisy_trainer(noisy_options(tmp_path)).train()
    changes: dict[str, Any] = {"SOLVER__MAX_EPOCH": 5, "METABIN__INNER_LR__HIGH": 0.2}
    trainer = noisy_trainer(noisy_options(tmp_path, **changes), resume=True)
    assert "METABIN.INNER_LR.HIGH: 0.1 -> 0.2\n" in plugin_log.text
    assert "SOLVER.MAX_EPOCH: 4 -> 5\n" in plugin_log.text
    assert plugin_log.text.count(" -> ") == 2
    assert trainer.start_iter == 20
    trainer.train()


def test_an_unchanged_config_lists_nothing(tmp_path: Path) -> None:
    trainer = noisy_trainer(noisy_options(tmp_path))
    assert config_changes(trainer.cfg.dump(), trainer.cfg) == []
    assert config_changes("A: {B: 1}", trainer.cfg)[0] == "A.B: 1 -> (absent)"


def test_a_plain_fastreid_checkpoint_goes_on_at_its_epoch(tmp_path: Path, plugin_log: Any) -> None:
    options = noisy_options(tmp_path)
    noisy_trainer(options).train()
    path = tmp_path / "out" / "model_final.pth"
    plain = torch.load(path, weights_only=True)
    for name in ("format", "progress", "config", "checkpoints"):
        del plain[name]
    torch.save({**plain, "epoch": 1}, path)
    trainer = noisy_trainer(options, resume=True)
    assert (trainer.start_epoch, trainer.start_iter) == (2, 10)
    assert "was not made by this plugin" in plugin_log.text
    trainer.train()


def test_scalars_survive() -> None:
    with EventStorage() as storage:
        for storage.iter in range(WINDOW + 5):
            storage.put_scalar("loss", storage.iter / 3)
            storage.put_scalar("time", 1.0)
        storage.put_scalar("mAP", 40.5, smoothing_hint=False)
    with RunStorage(7) as other:
        other.restore(history_state(storage))
    assert other.iter == 7
    assert other.latest() == {k: v for k, v in storage.latest().items() if k != "time"}
    assert other.history("loss").values() == storage.history("loss").values()[-WINDOW:]
    assert other.smoothing_hints() == {"loss": True, "mAP": False}
    with other:
        other.put_scalar("loss", 1.0, smoothing_hint=False)
        other.put_scalar("loss", 2.0, smoothing_hint=False)
    assert other.smoothing_hints() == {"loss": False, "mAP": False}


@pytest.mark.parametrize(
    ("text", "iteration", "left", "last"),
    [
        ('{"iteration": 3}\n{"iteration": 7}\n', 8, 2, 7),
        ('{"iteration": 3}\n{"iteration": 7}\n', 7, 1, 3),
        ('{"iteration": 3}\n{"iteration": 7', 9, 1, 3),
        ('{"iteration": 3}\n\x00\x00', 9, 1, 3),
        ('{"iteration": 3}\n[]\n', 9, 1, 3),
        ("", 9, 0, -1),
    ],
)
def test_lines_that_will_be_written_again_are_cut(
    tmp_path: Path, text: str, iteration: int, left: int, last: int
) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    assert cut_metrics_file(str(path), iteration) == last
    assert path.read_text() == "".join(text.splitlines(keepends=True)[:left])


def test_a_missing_metrics_file_is_none(tmp_path: Path) -> None:
    assert cut_metrics_file(str(tmp_path / "metrics.json"), 5) == -1
