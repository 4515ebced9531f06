"""Parts of a benchmark, each in a process of its own until its time is over.

What a part measures is printed and written the moment it is there, so that neither a part that
hangs or dies nor the end of the whole loses it.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# For a process that was killed to be gone.
_GRACE = 10.0


@dataclass(frozen=True)
class Rows:
    """Where a part's rows go.

    Attributes:
        part: its name.
        file: JSON lines are added to it; None for print alone.
    """

    part: str
    file: Path | None

    def write(self, row: str, **values: Any) -> None:
        """Print a row, and add it to the file.

        Args:
            row: what was measured.
            **values: numbers and words, by name.
        """
        words = ", ".join(f"{name} {_shown(value)}" for name, value in values.items())
        print(f"{self.part} | {row} | {words}", flush=True)
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"part": self.part, "row": row, **values}) + "\n")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Part:
    """A part of a benchmark.

    Attributes:
        name: what its rows are called.
        measure: importable by name; gets the ``Rows`` and ``arguments``.
        seconds: how long it may take, besides what those before it left.
        arguments: picklable.
    """

    name: str
    measure: Callable[..., None]
    seconds: float
    arguments: tuple[Any, ...] = ()


def run_parts(parts: Sequence[Part], file: Path | None) -> None:
    """Run parts one after another.

    The process of the next one starts, and imports what it needs, while one measures. A part that
    fails, dies or runs out of time has a row that says so.

    Args:
        parts: in their order.
        file: for ``Rows``.
    """
    end = time.monotonic()
    waiting: _Process | None = None
    try:
        for number, part in enumerate(parts):
            process = waiting or _Process(part, file)
            is_last = number + 1 == len(parts)
            waiting = None if is_last else _Process(parts[number + 1], file)
            end += part.seconds
            try:
                process.measure(end - time.monotonic())
            finally:
                process.kill()
    finally:
        if waiting is not None:
            waiting.kill()


class _Process:
    """Waits until it is told to measure."""

    def __init__(self, part: Part, file: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._rows = Rows(part.name, file)
        receiver, self._sender = context.Pipe(duplex=False)
        arguments = (receiver, part.measure, self._rows, part.arguments)
        self._process = context.Process(target=_measure, args=arguments)
        self._process.start()
        receiver.close()

    def measure(self, seconds: float) -> None:
        """Measure for no longer than that."""
        # It may have died already.
        with suppress(OSError):
            self._sender.send(None)
        self._process.join(max(seconds, 0.0))
        if self._process.exitcode is None:
            self._rows.write("ended", reason=f"its time was over after {seconds:.1f} s")
        elif self._process.exitcode:
            self._rows.write("ended", reason=f"exit code {self._process.exitcode}")

    def kill(self) -> None:
        """End it and what it started."""
        assert self._process.pid is not None
        # The group is there once the process has begun to run.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join(_GRACE)
        self._sender.close()


def _measure(
    told: Connection, measure: Callable[..., None], rows: Rows, arguments: tuple[Any, ...]
) -> None:
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        told.recv()
    except EOFError:
        return
    start = time.monotonic()
    try:
        measure(rows, *arguments)
    except Exception as error:
        traceback.print_exc()
        rows.write("failed", error=" ".join(f"{type(error).__name__}: {error}".split()))
    rows.write("finished", seconds=round(time.monotonic() - start, 1))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)
