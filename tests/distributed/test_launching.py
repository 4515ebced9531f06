"""``launch`` as scripts call it: real interpreters, the real trainer, and torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distributed import launched_run
from tests.distributed.test_ranks import is_running, wait_until

ROOT = Path(__file__).parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
LAUNCHERS = {"launch": [sys.executable], "torchrun": [sys.executable, *TORCHRUN]}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_killed_in_training_ends_the_run_within_a_minute(
    tmp_path: Path, launcher: str
) -> None:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [*LAUNCHERS[launcher], launched_run.__file__, str(tmp_path)],
        env=variables,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    marks = [tmp_path / f"training{rank}" for rank in range(2)]
    try:
        wait_until(lambda: process.poll() is not None or all(mark.exists() for mark in marks))
        pids = [int(mark.read_text()) for mark in marks]
        killed = time.monotonic()
        os.kill(pids[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
        assert time.monotonic() - killed < 300
    finally:
        process.kill()
    assert process.returncode not in (0, None)
    assert not any(is_running(pid) for pid in pids)
    if launcher == "launch":
        assert (
            errors.strip()
            .splitlines()[-1]
            .startswith("error: --num-gpus: rank 1 was killed by SIGKILL")
        )
