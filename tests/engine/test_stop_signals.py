"""SIGTERM and Ctrl-C: the iteration is finished, the run saved, and the status is the signal's."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metabin_plugin.engine import MetaBINTrainer, stop_signals
from metabin_plugin.engine.stop_signals import SAME_SIGNAL_SECONDS, Stopped, StopSignals
from tests.engine.noisy_run import noisy_options, noisy_trainer, train
from tests.engine.test_resume import difference, outcome, straight
from tests.processes import start

HELD = {"METABIN__HOOKS": ("MetaLearningHook", "NoisyHook", "HeldHook")}


def train_in_a_group(options: list[str]) -> None:
    """Train as the leader of a process group, as a shell's job is."""
    os.setpgid(0, 0)
    train(options)


def wait_for(path: Path, process: BaseProcess) -> None:
    while not path.exists():
        assert process.is_alive(), process.exitcode
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_a_signal_to_the_whole_group_loses_nothing(
    tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    changes = {**HELD, "DATALOADER__NUM_WORKERS": workers, "SOLVER__CHECKPOINT_KEEP": 0}
    options, expected, _ = straight(tmp_path, **changes)
    folder = tmp_path / "stopped"
    options += ["OUTPUT_DIR", str(folder)]
    # It cannot be over before the signal comes, and has it before it goes on.
    (tmp_path / "hold").touch()
    process = start(train_in_a_group, options)
    wait_for(folder / "held", process)
    os.killpg(process.pid, number)
    (tmp_path / "hold").unlink()
    process.join()
    assert process.exitcode == 128 + number
    assert not (folder / "model_final.pth").exists()
    last = (folder / "last_checkpoint").read_text()
    assert last.startswith("model_iter_"), last
    resumed = start(train, options, True)
    resumed.join()
    # The one at which it stopped is in the list of checkpoints, and in that of no other run.
    found = outcome(folder)
    for checkpoint in ("model_final", "model_best"):
        for run in (expected, found):
            del run[checkpoint]["checkpoints"]["periodic"]
    assert difference(expected, found) == ""


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    process = start(train, noisy_options(tmp_path, METABIN__HOOKS=("HeldHook",)))
    try:
        wait_for(tmp_path / "out" / "held", process)
        os.kill(process.pid, signal.SIGTERM)
        process.join(SAME_SIGNAL_SECONDS + 0.5)
        # It would end with the iteration, which goes on.
        assert process.is_alive()
        deadline = time.monotonic() + 300
        # On a busy machine the first one may have been noticed just before the next.
        while process.is_alive() and time.monotonic() < deadline:
            os.kill(process.pid, signal.SIGTERM)
            process.join(SAME_SIGNAL_SECONDS + 0.5)
        assert process.exitcode == 128 + signal.SIGTERM
    finally:
        process.kill()


def test_a_signal_that_comes_twice_in_a_second_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler's, to the process and by its launcher."""
    now, ended = 100.0, []
    monkeypatch.setattr(stop_signals, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(os, "_exit", ended.append)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        now += SAME_SIGNAL_SECONDS
        signal.raise_signal(signal.SIGTERM)
        assert (signals.agreed(), ended) == (signal.SIGTERM, [])
        now += 0.1
        signal.raise_signal(signal.SIGINT)
        assert (signals.agreed(), ended) == (signal.SIGTERM, [128 + signal.SIGINT])


def test_a_signal_while_evaluating_stops_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = noisy_trainer(noisy_options(tmp_path))

    def evaluate(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the evaluation went on")

    real_test = MetaBINTrainer.test
    monkeypatch.setattr(MetaBINTrainer, "test", evaluate)
    with pytest.raises(SystemExit) as stopped:
        trainer.train()
    assert stopped.value.code == 128 + signal.SIGTERM
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_before_test.pth"

    monkeypatch.setattr(MetaBINTrainer, "test", real_test)
    resumed = noisy_trainer(noisy_options(tmp_path), resume=True)
    assert (resumed.start_epoch, resumed.start_iter) == (1, 10)
    resumed.train()
    expected = noisy_options(tmp_path, OUTPUT_DIR=tmp_path / "straight")
    noisy_trainer(expected).train()
    assert difference(outcome(tmp_path / "straight"), outcome(tmp_path / "out")) == ""


def test_a_signal_while_the_sampler_is_run_forward_stops_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = noisy_trainer(noisy_options(tmp_path))

    def run_forward() -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the sampler was run further")

    monkeypatch.setattr(trainer.base_batches, "start", run_forward)
    with pytest.raises(Stopped):
        trainer.train()


def test_a_background_job_is_deaf_to_ctrl_c_only() -> None:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.agreed() == 0
            signal.raise_signal(signal.SIGTERM)
            assert signals.agreed() == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, former)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        assert signals.agreed() == 0
        signal.raise_signal(signal.SIGINT)
        assert signals.agreed() == signal.SIGINT
        with pytest.raises(Stopped), signals.raising():
            pytest.fail("a signal that has come already was not noticed")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_dying_loader_is_no_error_of_its_own() -> None:
    with StopSignals() as signals, pytest.raises(Stopped) as stopped, signals.raising():
        signals._raises = False
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("DataLoader worker is killed by signal: Terminated.")
    assert stopped.value.code == 143


def test_another_thread_can_train() -> None:
    failures: list[BaseException] = []

    def body() -> None:
        try:
            with StopSignals() as signals:
                signals.agreed()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert not failures
