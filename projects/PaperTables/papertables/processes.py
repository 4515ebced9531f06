"""Running commands, a few at a time, each with its log file (POSIX)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_POLL_SECONDS = 0.2
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MIB = 2**20
# getrusage counts in KiB on Linux and in bytes on macOS.
_RESIDENT_UNIT = 1 if sys.platform == "darwin" else 2**10


@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        name: what messages call it.
        command: the program and its arguments.
        log: file to which its output is added.
    """

    name: str
    command: Sequence[str]
    log: Path


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: its exit status; minus the signal that ended it.
        seconds: how long it ran.
        resident_mib: the most main memory that it held.
    """

    status: int
    seconds: float
    resident_mib: float


class _Process:
    """A started job."""

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self.job = job
        self._started = time.perf_counter()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            # Out of the terminal's reach: signals come from this process alone, once each.
            self._popen = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def ended(self) -> Ended | None:
        """How it ended; None while it runs."""
        pid, status, usage = os.wait4(self._popen.pid, os.WNOHANG)
        if pid == 0:
            return None
        # Popen must not wait again for a process that is gone.
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - self._started
        resident = usage.ru_maxrss * _RESIDENT_UNIT / _MIB
        return Ended(self._popen.returncode, seconds, resident)

    def send(self, number: int) -> None:
        """Pass a signal on."""
        self._popen.send_signal(number)


class JobQueue:
    """Runs jobs, ``slots`` at a time.

    SIGINT, SIGTERM and SIGHUP are passed on to the processes, which then save and end, and no
    further job is started. One that is ignored when they start stays ignored.

    Args:
        slots: how many processes run at a time.
        threads: the number of threads of each, unless ``OMP_NUM_THREADS`` is already set.

    Attributes:
        stopped_by: number of the signal that asked to stop; 0 for none.
    """

    def __init__(self, slots: int, threads: int) -> None:
        self._slots = slots
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self._running: list[_Process] = []
        self.stopped_by = 0

    def run(
        self,
        jobs: Sequence[Job],
        on_start: Callable[[Job], object],
        on_end: Callable[[Job, Ended], object],
    ) -> None:
        """Run all jobs in their order, and wait for them.

        Args:
            jobs: what to run.
            on_start: called with each job when it starts.
            on_end: called with each job when it has ended, and how.
        """
        waiting = list(jobs)
        # What was ignored from the start stays so: nohup, or a job in the background.
        heard = [n for n in _STOP_SIGNALS if signal.getsignal(n) != signal.SIG_IGN]
        former = {number: signal.signal(number, self._stop) for number in heard}
        try:
            while self._running or (waiting and not self.stopped_by):
                while waiting and len(self._running) < self._slots and not self.stopped_by:
                    job = waiting.pop(0)
                    on_start(job)
                    self._running.append(_Process(job, self._environment))
                self._collect(on_end)
                time.sleep(_POLL_SECONDS)
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _collect(self, on_end: Callable[[Job, Ended], object]) -> None:
        for process in list(self._running):
            ended = process.ended()
            if ended is not None:
                self._running.remove(process)
                on_end(process.job, ended)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or number
        for process in self._running:
            process.send(number)
