"""``launch`` as scripts call it, with the real trainer; and torchrun, in real interpreters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metabin_plugin.cli.main import parse
from metabin_plugin.cli.train import run
from tests.distributed import launched_run, small_backbone
from tests.distributed.test_ranks import is_running, wait_until
from tests.engine.tiny_data import tiny_options
from tests.processes import ROOT, fork_what_is_spawned, start

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def kill_rank_1(folder: Path, has_ended: Callable[[], bool], wait: Callable[[], object]) -> None:
    """Kill a rank of a run in the midst of its training; all of it has to end soon."""
    marks = [folder / f"training{rank}" for rank in range(2)]
    wait_until(lambda: has_ended() or all(mark.exists() for mark in marks))
    pids = [int(mark.read_text()) for mark in marks]
    killed = time.monotonic()
    os.kill(pids[1], signal.SIGKILL)
    wait()
    assert time.monotonic() - killed < 300
    assert not any(is_running(pid) for pid in pids)


def launch_here(folder: Path) -> None:
    """What the script does, with ranks that are forks of this process."""
    with (folder / "errors").open("wb") as errors:
        os.dup2(errors.fileno(), 2)
    fork_what_is_spawned()
    launched_run.main(folder)


def train_here(folder: Path) -> None:
    """The command with two processes, which are forks of this one."""
    with (folder / "printed").open("wb") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
    fork_what_is_spawned()
    options = [*tiny_options(folder), *small_backbone.OPTIONS]
    (folder / "source1" / "2_1.png").write_text("broken")
    config = ["--num-gpus", "2", "--config-file", str(ROOT / "configs" / "MetaBIN.yml")]
    run(parse(["train", *config, *options]))


@pytest.mark.slow
def test_a_mistake_in_one_of_two_processes_is_a_sentence(tmp_path: Path) -> None:
    """Neither its own traceback nor that of the process that waits for it comes before it."""
    process = start(train_here, tmp_path)
    process.join(300)
    process.kill()
    printed = (tmp_path / "printed").read_text()
    assert process.exitcode == 1, printed
    assert printed.splitlines()[-1].startswith("error: Image ")
    assert "Traceback" not in printed
    assert "Exception during training:" in printed


@pytest.mark.slow
def test_a_rank_killed_in_training_ends_the_run_within_a_minute(tmp_path: Path) -> None:
    process = start(launch_here, tmp_path)
    try:
        kill_rank_1(tmp_path, lambda: process.exitcode is not None, lambda: process.join(300))
    finally:
        process.kill()
    assert process.exitcode == 1
    last = (tmp_path / "errors").read_text().strip().splitlines()[-1]
    assert last.startswith("error: --num-gpus: rank 1 was killed by SIGKILL")


@pytest.mark.slow
def test_a_rank_that_torchrun_started_ends_it_too(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, *TORCHRUN, launched_run.__file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        kill_rank_1(tmp_path, lambda: process.poll() is not None, lambda: process.wait(300))
    finally:
        process.kill()
    assert process.returncode not in (0, None)
