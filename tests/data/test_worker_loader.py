"""Whatever happens to loader workers, the process that wants their batches ends, and says why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.failing_loader import FAULTS, run
from tests.processes import ROOT, start

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
    """Whether no process of a group runs; one that has ended may wait long for who reads that."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == leader and state not in "ZX":
            return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["training", "evaluation"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_process_ends_and_says_why(tmp_path: Path, fault: str, kind: str) -> None:
    process = start(run, tmp_path, kind, fault)
    try:
        process.join(300)
        assert process.exitcode == int(fault != "nothing")
        found = (tmp_path / "error").read_text()
        assert re.match(SAYS[fault], found, re.DOTALL), found
        pid = process.pid
        assert pid is not None
        wait_until(lambda: group_is_gone(pid))
    finally:
        process.kill()


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_one_ctrl_c_is_enough_while_workers_hang(tmp_path: Path, kind: str) -> None:
    process = start(run, tmp_path, kind, "asleep")
    try:
        wait_until((tmp_path / "asleep").exists)
        pid = process.pid
        assert pid is not None
        os.killpg(pid, signal.SIGINT)
        process.join(300)
        assert process.exitcode == 1
        assert (tmp_path / "error").read_text() == "KeyboardInterrupt: "
        wait_until(lambda: group_is_gone(pid))
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_shared_memory_of_a_small_container(tmp_path: Path, kind: str) -> None:
    def in_container(*command: str) -> subprocess.CompletedProcess[str]:
        mount = 'mount -t tmpfs -o size=2m tmpfs /dev/shm && exec "$@"'
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", mount, "sh", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )

    try:
        probe = in_container("true")
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if probe.returncode != 0:
        pytest.skip(f"/dev/shm cannot be made smaller here: {probe.stderr.strip()}")
    code = (
        "import sys, pathlib, metabin_plugin; metabin_plugin.register(); "
        "from tests.data.failing_loader import run; "
        "run(pathlib.Path(sys.argv[1]), sys.argv[2], 'large')"
    )
    done = in_container(sys.executable, "-c", code, str(tmp_path), kind)
    assert done.returncode == 1
    found = (tmp_path / "error").read_text()
    assert re.match(rf"{WITH_TWO} /dev/shm \(2 MB\), .* --shm-size", found), found
