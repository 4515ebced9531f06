"""Peak memory of a function, in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


def measure_apart(function: Callable[..., Any], *args: Any) -> tuple[Any, int]:
    """Call a function in a new process.

    Args:
        function: importable by name.
        *args: picklable.

    Returns:
        What it returned, and the largest resident memory of its process in bytes.

    Raises:
        RuntimeError: the process ended early, for want of memory perhaps.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, function, args))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode}") from None
    finally:
        process.join()


def _run(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    result = function(*args)
    sender.send((result, peak()))


def peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    # Linux also counts in ru_maxrss what the process that started this one held at that time.
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest
