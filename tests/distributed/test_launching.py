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

from tests.distributed import launched_run
from tests.distributed.test_ranks import is_running, wait_until
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
