"""When checkpoints are made, which are kept, and what a failing evaluation leaves."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.utils.events import EventStorage

from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.engine.log import WINDOW, RunStorage, history_state
from metabin_plugin.errors import CheckpointError, DatasetError
from tests.engine.noisy_run import noisy_options, noisy_trainer
from tests.engine.test_resume import difference, outcome


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

    monkeypatch.setattr(trainer.hook("MetaLearningHook"), "before_train", fail)
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
    "error",
    [
        DatasetError("an image is damaged"),
        MemoryError(),
        RuntimeError("CUDA out of memory"),
        OSError(errno.ENOSPC, "No space left on device"),
        SystemExit(1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_last_evaluation_that_fails_costs_no_final_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    changes: dict[str, Any] = {"SOLVER__MAX_EPOCH": 2, "TEST__EVAL_PERIOD": 1}
    options = noisy_options(tmp_path, **changes)
    trainer = noisy_trainer(options)
    real_test, evaluations = MetaBINTrainer.test, list[Any]()

    def evaluate(_: MetaBINTrainer, cfg: Any, model: Any) -> Any:
        evaluations.append(cfg)
        if len(evaluations) == 2:
            raise error
        return real_test(cfg, model)

    monkeypatch.setattr(MetaBINTrainer, "test", evaluate)
    with pytest.raises((type(error), CheckpointError)):
        trainer.train()
    out = tmp_path / "out"
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    trained = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    final = torch.load(out / "model_final.pth", weights_only=True)["model"]
    assert difference(trained, final) == ""

    monkeypatch.setattr(MetaBINTrainer, "test", real_test)
    noisy_trainer(options, resume=True).train()
    assert "before_test" not in names(out)
    noisy_trainer(noisy_options(tmp_path, OUTPUT_DIR=tmp_path / "straight", **changes)).train()
    assert difference(outcome(tmp_path / "straight"), outcome(out)) == ""


# Cameras and persons of two queries and two gallery images, none of which can be scored.
UNSCORABLE = {
    "one camera": ("1,c", "2,c", "1,c", "2,c"),
    "each person under one camera": ("1,a", "2,b", "1,a", "2,b"),
    "other people": ("1,a", "2,a", "3,b", "4,b"),
    "people named otherwise": ("1,a", "2,a", "01,b", "02,b"),
}


@pytest.mark.parametrize("rows", UNSCORABLE.values(), ids=UNSCORABLE)
def test_a_target_without_a_scorable_query_is_refused_before_training(
    tmp_path: Path, rows: tuple[str, ...]
) -> None:
    options = noisy_options(tmp_path)
    subsets = ("query", "query", "gallery", "gallery")
    labels = [f"{row},{subset}" for row, subset in zip(rows, subsets, strict=True)]
    lines = [f"target/{number}_1.png,{label}" for number, label in enumerate(labels)]
    (tmp_path / "target.csv").write_text("\n".join(["path,pid,camid,subset", *lines]))
    sentence = r"target\.csv.* cannot be evaluated: none of its 2 queries"
    with pytest.raises(DatasetError, match=sentence):
        noisy_trainer(options)
    assert not names(tmp_path / "out")
    # Without an evaluation nobody asks.
    trainer = noisy_trainer([*options, "TEST.EVAL_PERIOD", "0"])
    with pytest.raises(DatasetError, match=sentence):
        MetaBINTrainer.build_evaluator(trainer.cfg, trainer.cfg.DATASETS.TESTS[0])
