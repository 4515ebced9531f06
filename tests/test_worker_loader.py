"""Whatever happens to loader workers, the process that wants their batches ends, and says why."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from tests.failing_loader import FAULTS, run
from tests.processes import start

LOWER = "lower DATALOADER.NUM_WORKERS"
TOO_SMALL = r"/dev/shm \(\d+ MB\), .* too small; set DATALOADER.NUM_WORKERS to 0, .* --shm-size"
WITH_TWO = "LoaderError: DATALOADER.NUM_WORKERS: with 2 loader workers"
SAYS = {
    "nothing": "none",
    "sampler": "RuntimeError: the sampler failed",
    "sampler while the first batches are drawn": "RuntimeError: the sampler failed",
    "sampler later": "RuntimeError: the sampler failed",
    "too many open files": f"{WITH_TWO} too many files are open; {LOWER}, or raise .*ulimit -n",
    "no further process": f"{WITH_TWO} the system gives no further process or memory; {LOWER}",
    "no memory for a process": f"{WITH_TWO} the system gives no further process or memory",
    "killed": f"{WITH_TWO} one of them was killed by SIGKILL; if .* out of memory {LOWER}",
    "bus error": f"{WITH_TWO} {TOO_SMALL}",
    "crash": f"{WITH_TWO} one of them was killed by SIGSEGV",
    "killed amid a message": f"{WITH_TWO} one of them was killed by SIGKILL",
    "ended": f"{WITH_TWO} one of them ended with status 0",
    "ended with a status": f"{WITH_TWO} one of them ended with status 3",
    "unsendable": "TypeError: .*no pickle of it",
    "no room for it": f"{WITH_TWO} {TOO_SMALL}",
    "no room in shared memory": f"{WITH_TWO} {TOO_SMALL}",
    "Ctrl-C before a worker is there": "KeyboardInterrupt: ",
    "Ctrl-C when a worker is there": "KeyboardInterrupt: ",
    "Ctrl-C when the first worker is there": "KeyboardInterrupt: ",
}


def group_is_gone(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("kind", ["training", "evaluation"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_process_ends_and_says_why(tmp_path: Path, fault: str, kind: str) -> None:
    process = start(run, tmp_path, kind, fault)
    try:
        process.join(20)
        assert process.exitcode == int(fault != "nothing")
        found = (tmp_path / "error").read_text()
        assert re.match(SAYS[fault], found, re.DOTALL), found
        assert process.pid is not None
        deadline = time.monotonic() + 5
        while not group_is_gone(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert group_is_gone(process.pid)
    finally:
        process.kill()
