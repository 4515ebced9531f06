"""One run: a row with a seed, its folder, and what is known of it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from metabin_plugin.errors import ConfigError
from metabin_plugin.files import make_folder_of, reason, write_whole
from papertables.rows import Settings, changes

_RECORD, _RESULTS, _LOCK = "run.json", "results.json", "run.lock"
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
        cpu_seconds: how long they computed, on all cores together.
        resident_mib: the most main memory that one of them held.
        is_open: whether a process was started whose end is not recorded.
        is_timed: whether the seconds are those of all its processes: False once the end of one
            was not seen, because the command was killed.
        place: what the last process was run with, of the commit and the machine.
    """

    settings: Settings
    finished: bool = False
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    resident_mib: float = 0.0
    is_open: bool = False
    is_timed: bool = True
    place: Mapping[str, str] = field(default_factory=dict)

    def before_attempt(self, place: Mapping[str, str]) -> Record:
        """The record with a process that has started."""
        is_timed = self.is_timed and not self.is_open
        return replace(self, is_open=True, is_timed=is_timed, place=dict(place))

    def after_attempt(self, finished: bool, how: Ended) -> Record:
        """The record when the process has ended."""
        return replace(
            self,
            finished=finished,
            seconds=self.seconds + how.seconds,
            cpu_seconds=self.cpu_seconds + how.cpu_seconds,
            resident_mib=max(self.resident_mib, how.resident_mib),
            is_open=False,
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
        """Keep what is known of the run.

        Raises:
            ConfigError: the file cannot be written.
        """
        path = self.folder / _RECORD
        text = json.dumps(asdict(record), indent=1) + "\n"
        make_folder_of(path, ConfigError)
        write_whole(path, lambda file: file.write(text.encode()), ConfigError)

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
        log: file to which its output is added; in its folder is the lock of the job.
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
        cpu_seconds: how long it computed, on all cores together.
        resident_mib: the most main memory that it held.
    """

    status: int
    seconds: float
    cpu_seconds: float
    resident_mib: float


class Lock:
    """A file that one process at a time has locked, with the processes that it starts.

    It is free when all of them have ended, however they ended.

    Args:
        path: the file; its folder is made.
        waits: whether to wait until no other process has locked it.

    Raises:
        BlockingIOError: another process has locked it, and it is not waited for.
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: Path, waits: bool = False) -> None:
        self._file = _open_to_add(path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            self._file.close()
            raise

    def fileno(self) -> int:
        """Descriptor that a process inherits to hold the lock too."""
        return self._file.fileno()

    def release(self) -> None:
        """Let go of it."""
        self._file.close()


def lock(path: Path) -> Lock | None:
    """Lock a file; None if another process has."""
    try:
        return Lock(path)
    except BlockingIOError:
        return None


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """A block that one process at a time is in; the others wait for it.

    Args:
        path: the file that is locked; its folder is made.

    Raises:
        ConfigError: the file cannot be written.
    """
    held = Lock(path, waits=True)
    try:
        yield
    finally:
        held.release()


def _open_to_add(path: Path) -> BinaryIO:
    make_folder_of(path, ConfigError)
    try:
        return path.open("ab")
    except OSError as fault:
        raise ConfigError(
            f"{path} cannot be written ({reason(fault)}); choose another --output, with space for "
            "it"
        ) from fault


class _Process:
    """A started job, which holds on to locks while it runs."""

    def __init__(self, job: Job, environment: dict[str, str], locks: Sequence[Lock]) -> None:
        self.job, self._locks = job, locks
        self._started = time.perf_counter()
        with _open_to_add(job.log) as log:
            # Out of the terminal's reach: signals come from this process alone, once each.
            self._popen = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                # A process that outlives this one keeps others from its folder.
                pass_fds=[held.fileno() for held in locks],
            )

    def ended(self) -> Ended | None:
        """How it ended; None while it runs."""
        pid, status, usage = os.wait4(self._popen.pid, os.WNOHANG)
        if pid == 0:
            return None
        # Popen must not wait again for a process that is gone.
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - self._started
        computed = usage.ru_utime + usage.ru_stime
        resident = usage.ru_maxrss * _RESIDENT_UNIT / _MIB
        return Ended(self._popen.returncode, seconds, computed, resident)

    def send(self, number: int) -> None:
        """Pass a signal on."""
        self._popen.send_signal(number)

    def release(self) -> None:
        """Let go of the locks."""
        for held in self._locks:
            held.release()


class JobQueue:
    """Runs jobs, ``slots`` at a time, all queues on one folder counted together.

    A job that another queue is running is left to it. SIGINT, SIGTERM and SIGHUP are passed on to
    the processes, which then save and end, and no further job is started. One that is ignored when
    they start stays ignored.

    Args:
        slots: how many processes run at a time.
        threads: the number of threads of each, unless ``OMP_NUM_THREADS`` is already set.
        folder: where the locks of the slots are.

    Attributes:
        stopped_by: number of the signal that asked to stop; 0 for none.
        elsewhere: the jobs that were left to another queue.
    """

    def __init__(self, slots: int, threads: int, folder: Path) -> None:
        self._slots = [folder / f"slot{number}.lock" for number in range(slots)]
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self._running: list[_Process] = []
        self._unsent: list[int] = []
        self.stopped_by = 0
        self.elsewhere: list[Job] = []

    def run(
        self,
        jobs: Sequence[Job],
        on_start: Callable[[Job], bool],
        on_end: Callable[[Job, Ended], object],
    ) -> None:
        """Run all jobs in their order, and wait for them.

        Args:
            jobs: what to run.
            on_start: called with each job when its turn has come; False leaves it out.
            on_end: called with each job when it has ended, and how.

        Raises:
            ConfigError: a lock or a log cannot be written. What runs is stopped before, as it is
                when one of the two functions raises.
        """
        waiting = list(jobs)
        # What was ignored from the start stays so: nohup, or a job in the background.
        heard = [n for n in _STOP_SIGNALS if signal.getsignal(n) != signal.SIG_IGN]
        former = {number: signal.signal(number, self._stop) for number in heard}
        try:
            while self._running or (waiting and not self.stopped_by):
                while waiting and not self.stopped_by and (slot := self._free_slot()):
                    self._start(waiting.pop(0), slot, on_start)
                self._pass_on()
                self._collect(on_end)
                time.sleep(_POLL_SECONDS)
        except BaseException:
            self._end_all(on_end)
            raise
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _free_slot(self) -> Lock | None:
        return next(filter(None, map(lock, self._slots)), None)

    def _start(self, job: Job, slot: Lock, on_start: Callable[[Job], bool]) -> None:
        locks = [slot]
        is_started = False
        try:
            own = lock(job.log.parent / _LOCK)
            if own is None:
                self.elsewhere.append(job)
                return
            locks.append(own)
            if on_start(job):
                self._running.append(_Process(job, self._environment, locks))
                is_started = True
        finally:
            for held in [] if is_started else locks:
                held.release()

    def _collect(self, on_end: Callable[[Job, Ended], object]) -> None:
        for process in list(self._running):
            ended = process.ended()
            if ended is not None:
                self._running.remove(process)
                # The next process of the job is not started before this one is recorded.
                try:
                    on_end(process.job, ended)
                finally:
                    process.release()

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or number
        self._unsent.append(number)

    def _pass_on(self) -> None:
        """Send what has come to all that run: to one that was being started meanwhile, too."""
        while self._unsent:
            number = self._unsent.pop(0)
            for process in self._running:
                process.send(number)

    def _end_all(self, on_end: Callable[[Job, Ended], object]) -> None:
        """Let what runs save and end, instead of going on unseen with its slots."""
        self._stop(signal.SIGTERM, None)
        while self._running:
            self._pass_on()
            # What went wrong first is what is said.
            with suppress(Exception):
                self._collect(on_end)
            time.sleep(_POLL_SECONDS)
