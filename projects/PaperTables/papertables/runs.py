"""One run: a row with a seed, its folder, and what is known of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

from metabin_plugin.errors import ConfigError
from metabin_plugin.files import replace_file
from papertables.rows import Settings, changes

_RECORD, _RESULTS = "run.json", "results.json"
# fastreid's log names the most that PyTorch has held of a GPU, in MiB.
_CUDA_MEMORY = re.compile(r"max_mem: (\d+)M")


_POLL_SECONDS = 0.2
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MIB = 2**20
# getrusage counts in KiB on Linux and in bytes on macOS.
_RESIDENT_UNIT = 1 if sys.platform == "darwin" else 2**10


@dataclass(frozen=True)
class Record:
    """What is kept of a run between calls of the command.

    Attributes:
        settings: all that its config files, the budget and the command line set.
        finished: whether its process ended well.
        seconds: how long its processes took, all attempts together.
        resident_mib: the most main memory that one of them held.
    """

    settings: Settings
    finished: bool = False
    seconds: float = 0.0
    resident_mib: float = 0.0

    def after_attempt(self, finished: bool, seconds: float, resident_mib: float) -> Record:
        """The record with one more process."""
        return replace(
            self,
            finished=finished,
            seconds=self.seconds + seconds,
            resident_mib=max(self.resident_mib, resident_mib),
        )


@dataclass(frozen=True)
class Run:
    """A row with a seed.

    Attributes:
        row: name of the row.
        seed: value of ``METABIN.SEED``.
        folder: its ``OUTPUT_DIR``.
    """

    row: str
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.row} seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the run's processes print."""
        return self.folder / "run.log"

    @property
    def results(self) -> Path:
        """The run's last evaluation."""
        return self.folder / _RESULTS

    def record(self) -> Record | None:
        """What is known of the run; None if it was never started.

        Raises:
            ConfigError: the file is damaged.
        """
        path = self.folder / _RECORD
        if not path.exists():
            return None
        try:
            return Record(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged; remove {self.folder}") from error

    def write_record(self, record: Record) -> None:
        """Keep what is known of the run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(record), indent=1) + "\n"
        replace_file(self.folder / _RECORD, lambda file: file.write(text.encode()))

    def is_finished(self) -> bool:
        """Whether the run need not be started."""
        record = self.record()
        return record is not None and record.finished and self.results.exists()

    def check_unchanged(self, settings: Settings) -> None:
        """Refuse a run that was started with other settings.

        Raises:
            ConfigError: a key differs.
        """
        record = self.record()
        # As JSON keeps them, which has no tuples.
        differing = changes(record.settings, json.loads(json.dumps(settings))) if record else []
        if differing:
            raise ConfigError(
                f"{self} was run with other settings ({'; '.join(differing)}); remove "
                f"{self.folder}, or choose another --output"
            )

    def peak_mib(self, record: Record) -> float:
        """The most memory that the run held: of the GPU if it had one, else of main memory."""
        log = self.folder / "log.txt"
        of_gpu = (
            _CUDA_MEMORY.findall(log.read_text(encoding="utf-8", errors="replace"))
            if log.exists()
            else []
        )
        return max(map(float, of_gpu), default=record.resident_mib)


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
