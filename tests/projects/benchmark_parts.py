"""Parts of a benchmark for tests, importable in their processes."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.parts import Part, Rows, run_parts
from tests.processes import fork_what_is_spawned


def good(rows: Rows, value: float) -> None:
    rows.write("measured", value=value)


def hanging(rows: Rows, child: Path) -> None:
    """Measures something, starts a process, and never comes back."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    child.write_text(str(process.pid))
    # Not even for a signal.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rows.write("before it hangs", value=1)
    time.sleep(1000)


def dying(rows: Rows) -> None:
    rows.write("before it dies", value=1)
    # Pytest's would fill the log of the tests with a trace of what is meant to happen.
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def failing(_rows: Rows) -> None:
    raise RuntimeError("CUDA error:\nan illegal address")


def few_and_forked() -> None:
    """In this process parts are forks, with what it has imported, and measure a few times."""
    from benchmarks import gpu

    fork_what_is_spawned()
    gpu._MAPS = gpu._MAPS[:1]  # type: ignore[assignment]
    gpu._CALLS, gpu._WARMUPS, gpu._TIMED_SECONDS = 2, 2, 0.0


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    parts = [
        Part("good", good, 60.0, (1.5,)),
        Part("hanging", hanging, 1000.0, (folder / "child",)),
        Part("never", good, 10.0, (2.5,)),
    ]
    run_parts(parts, folder / "rows.json")
