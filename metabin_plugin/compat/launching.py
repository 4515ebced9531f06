"""``engine.launch`` works with CUDA and NCCL only, and knows nothing of ``torchrun``."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import re
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing import ProcessRaisedException

from metabin_plugin.compat.patching import patch
from metabin_plugin.environment import available_cpus
from metabin_plugin.errors import STATUS_BASE, ConfigError, LaunchError, user_error
from metabin_plugin.files import reason

# After a failure the others have this long to end by themselves, and as long again after SIGTERM.
GRACE_SECONDS = 10.0
# How long a process waits for another one in a collective. PyTorch's 10 minutes with NCCL are less
# than rank 0 may need to score a large gallery alone.
_COLLECTIVE = timedelta(hours=1)

_POLL_SECONDS = 0.5
# Variables of the environment say where the processes meet.
_OF_TORCHRUN = "env://"
_PASSED_ON = (signal.SIGTERM, signal.SIGINT)
_STOPPED = (STATUS_BASE + signal.SIGTERM, STATUS_BASE + signal.SIGINT)
# How the others report that one of them is gone.
_PEER_IS_GONE = re.compile(
    r"gloo|NCCL|Dist(Backend|Network|Store)Error|(closed|reset) by peer|Broken pipe|pair closure"
)


def peer_is_gone(error: BaseException) -> bool:
    """Whether an error says that the connection to another process is gone, which has the cause."""
    return bool(_PEER_IS_GONE.search(f"{type(error).__name__}: {error}"))


def run_ranks(worker: Callable[..., None], args: tuple[Any, ...], count: int, first: int) -> None:
    """Run ``worker(local_rank, *args)`` in new processes, and wait until all of them have ended.

    When one fails the others are ended within 3 times ``GRACE_SECONDS``. In the main thread the
    first SIGTERM or SIGINT reaches every rank as SIGTERM, and what the first of them does about it
    is waited for, as it may be writing a checkpoint; when it has ended the others have as long as
    after a failure. The second signal kills all.

    PyTorch's elastic launcher promises less: it reports the peer that lost its connection for the
    rank that was killed or failed, ranks hear a terminal's Ctrl-C twice, and 30 seconds after a
    signal it kills a rank that is still writing its checkpoint.

    Args:
        worker: what to run; importable.
        args: its further arguments; picklable.
        count: number of processes.
        first: rank of the first of them among all processes, for the error texts.

    Raises:
        MetaBINError: what a rank raised, or a LaunchError when it ended without a word.
        ProcessRaisedException: a rank raised anything else; with its traceback.
        SystemExit: a signal ended the run; with 128 and its number.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        ranks = Ranks(Path(folder), first)
        try:
            with ranks.passing_signals_on():
                # They reach all ranks or none.
                with _waiting(_PASSED_ON):
                    ranks.start(worker, args, count)
                ranks.wait()
        finally:
            ranks.kill()
        ranks.raise_failure()


class Ranks:
    """Processes that belong together.

    Args:
        folder: an empty folder, where they leave their errors.
        first: rank of the first of them among all processes.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self._folder = folder
        self._first = first
        self._processes: list[Any] = []
        self._ended: set[Any] = set()
        self._signal = 0

    def start(self, worker: Callable[..., None], args: tuple[Any, ...], count: int) -> None:
        """Start ``count`` processes that run ``worker(local_rank, *args)``."""
        context = multiprocessing.get_context("spawn")
        for rank in range(count):
            process = context.Process(
                target=_run_rank, args=(rank, str(self._report(rank)), worker, args)
            )
            process.start()
            self._processes.append(process)

    def wait(self) -> None:
        """Wait until all have ended; once there is nothing to wait for, see to it that they do."""
        endings = iter((self._terminate, self.kill))
        deadline = None
        while alive := self._alive():
            # The workers of a dead rank's loaders hold its sentinel open for some seconds.
            wait([process.sentinel for process in alive], _POLL_SECONDS)
            if deadline is None and (self._has_failed() or self._first_has_stopped()):
                deadline = time.monotonic() + GRACE_SECONDS
            elif deadline is not None and time.monotonic() >= deadline:
                next(endings, self.kill)()
                deadline = time.monotonic() + GRACE_SECONDS

    def kill(self) -> None:
        """Kill those that are left, and wait for their end."""
        alive = self._alive()
        self._ended.update(alive)
        for process in alive:
            process.kill()
        for process in alive:
            process.join()

    @contextmanager
    def passing_signals_on(self) -> Iterator[None]:
        """A block in which SIGTERM and SIGINT go to the ranks; the former handlers come back."""
        former = {}
        if threading.current_thread() is threading.main_thread():
            for number in _PASSED_ON:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    former[number] = signal.signal(number, self._pass_on)
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def raise_failure(self) -> None:
        """Raise what ended the ranks that have all ended; nothing if all of them succeeded.

        Raises:
            MetaBINError: what a rank raised, or a LaunchError when it ended without a word.
            ProcessRaisedException: a rank raised anything else; with its traceback.
            SystemExit: a signal ended the run; with 128 and its number.
        """
        if all(process.exitcode == 0 for process in self._processes):
            return
        errors = self._errors()
        causes = [rank for rank, text in errors.items() if not _PEER_IS_GONE.search(_tail(text))]
        if causes:
            self._raise_error(causes[0], errors[causes[0]])
        stopped = [p.exitcode for p in self._processes if p.exitcode in _STOPPED]
        if self._signal or stopped:
            raise SystemExit(STATUS_BASE + self._signal if self._signal else stopped[0])
        for rank, process in enumerate(self._processes):
            if process.exitcode != 0 and rank not in errors and process not in self._ended:
                raise LaunchError(self._ending(rank, process.exitcode))
        rank = next(iter(errors))
        self._raise_error(rank, errors[rank])

    def _report(self, rank: int) -> Path:
        return self._folder / f"{rank}.txt"

    def _errors(self) -> dict[int, str]:
        """Tracebacks by local rank, the earliest first."""
        reports = {rank: self._report(rank) for rank in range(len(self._processes))}
        times = {rank: r.stat().st_mtime_ns for rank, r in reports.items() if r.exists()}
        return {
            rank: reports[rank].read_text(encoding="utf-8")
            for rank in sorted(times, key=times.__getitem__)
        }

    def _alive(self) -> list[Any]:
        return [process for process in self._processes if process.exitcode is None]

    def _has_failed(self) -> bool:
        # A rank that reported an error may still wait for a thread of its own.
        return any(
            process.exitcode not in (None, 0, *_STOPPED) or self._report(rank).exists()
            for rank, process in enumerate(self._processes)
        )

    def _first_has_stopped(self) -> bool:
        # The others may wait for it on their GPUs, deaf to signals.
        return self._processes[0].exitcode in _STOPPED

    def _terminate(self) -> None:
        for process in self._alive():
            self._ended.add(process)
            process.terminate()

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if self._signal:
            self.kill()
            raise SystemExit(STATUS_BASE + number)
        self._signal = number
        for process in self._alive():
            process.terminate()

    def _raise_error(self, rank: int, text: str) -> None:
        known = user_error(text)
        if known is not None:
            raise known
        raise ProcessRaisedException(
            f"rank {self._first + rank} failed with this error:\n\n{text}",
            error_index=rank,
            error_pid=self._processes[rank].pid,
        )

    def _ending(self, rank: int, status: int) -> str:
        how = (
            f"was killed by {signal.Signals(-status).name}"
            if status < 0
            else f"ended with status {status}"
        )
        return (
            f"--num-gpus: rank {self._first + rank} {how} without reporting an error, and the "
            "other ranks were ended; if the machine is out of memory lower SOLVER.IMS_PER_BATCH or "
            "DATALOADER.NUM_WORKERS, and go on from the last checkpoint with --resume"
        )


def _run_rank(
    local_rank: int, report: str, worker: Callable[..., None], args: tuple[Any, ...]
) -> None:
    # A terminal's Ctrl-C reaches the ranks too, and it is passed on once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        worker(local_rank, *args)
    except Exception:
        partial = Path(f"{report}.partial")
        partial.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        partial.rename(report)
        raise SystemExit(1) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _tail(text: str) -> str:
    """The exception at the end of a traceback."""
    lines = text.strip().splitlines()
    indented = [number for number, line in enumerate(lines) if line.startswith(" ")]
    return "\n".join(lines[indented[-1] + 1 :] if indented else lines)


@contextmanager
def _waiting(numbers: Iterable[int]) -> Iterator[None]:
    """A block in which signals wait for its end; in the processes it starts until they let them."""
    # Windows has no such thing.
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It lets them through when it starts, which is with the first process otherwise.
    resource_tracker.ensure_running()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@dataclass(frozen=True)
class Place:
    """Where a process stands: its machine, its rank there, and how to meet the others."""

    local_rank: int
    local_size: int
    machine: int
    machines: int
    url: str

    @property
    def rank(self) -> int:
        """Rank among all processes."""
        return self.machine * self.local_size + self.local_rank

    @property
    def world_size(self) -> int:
        """Number of processes on all machines."""
        return self.machines * self.local_size


@patch(
    "fastreid.engine.launch:launch",
    fault="It asserts CUDA and asks for NCCL, so that there is no distributed run on CPU. It "
    "knows nothing of ``torchrun``, which has started the processes already.",
    unless="one process is asked for, and ``torchrun`` has not started it.",
)
def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
) -> Any:
    """Run ``main_func(*args)`` in this process, or in several: NCCL on CUDA, gloo on CPU.

    Under ``torchrun`` the processes are there already, and the numbers are its own. Otherwise this
    process starts them, passes SIGTERM and Ctrl-C on, and ends all of them when one fails.

    Args:
        main_func: What to run; importable, since other processes import it.
        num_gpus_per_machine: Processes on each machine; one GPU each where there are any.
        num_machines: Number of machines, each of which calls this function.
        machine_rank: This machine's number.
        dist_url: Where the processes meet, e.g. ``tcp://127.0.0.1:8686``; None or ``auto`` picks a
            free port of this machine.
        args: Arguments of ``main_func``.

    Returns:
        What ``main_func`` returns when it ran in this process; None otherwise.

    Raises:
        ConfigError: Fewer GPUs than processes, several machines without ``dist_url``, a number of a
            machine that none has, or a ``dist_url`` where no processes can meet.
        MetaBINError: What ``main_func`` raised in another process, or that such a process died.
        ProcessRaisedException: ``main_func`` raised anything else in another process.
        SystemExit: A signal ended the processes; with 128 and its number.
    """
    if dist.is_torchelastic_launched():
        with process_group(_torchrun_place()):
            return main_func(*args)
    _check_numbers(num_gpus_per_machine, num_machines, machine_rank)
    if num_machines * num_gpus_per_machine <= 1:
        return main_func(*args)
    url = _meeting_point(dist_url, num_machines)
    # Pickled here, so that each child registers the plugin before it unpickles names of fastreid.
    call = pickle.dumps((main_func, args))
    places = [
        Place(rank, num_gpus_per_machine, machine_rank, num_machines, url)
        for rank in range(num_gpus_per_machine)
    ]
    run_ranks(
        _distributed_worker,
        args=(places, call, mp.get_start_method()),
        count=num_gpus_per_machine,
        first=places[0].rank,
    )
    return None


def _check_numbers(processes: int, machines: int, machine: int) -> None:
    """Refuse numbers with which processes would wait for others that do not come."""
    if machines < 1:
        raise ConfigError(f"--num-machines is {machines!r}; give 1 or more")
    # On one machine fastreid takes 0 for this process alone.
    if processes < 0 or (processes == 0 and machines > 1):
        raise ConfigError(f"--num-gpus is {processes!r}; give 1 or more")
    if not 0 <= machine < machines:
        raise ConfigError(
            f"--machine-rank is {machine!r} of {machines} machines; number them from 0 to "
            f"{machines - 1}, and say by --num-machines how many there are"
        )


def _distributed_worker(
    local_rank: int, places: list[Place], call: bytes, start_method: str
) -> None:
    from metabin_plugin import register

    # A spawned process would spawn its data loaders' workers too, each importing PyTorch anew:
    # seconds for every pass over the data, where the parent's own way (fork, on Linux) takes none.
    mp.set_start_method(start_method, force=True)
    register()
    with process_group(places[local_rank]):
        main_func, args = pickle.loads(call)
        main_func(*args)


@contextmanager
def process_group(place: Place) -> Iterator[None]:
    """Join the process group, and the machine's own group that fastreid keeps, for a while.

    Args:
        place: This process's place among the others.

    Raises:
        ConfigError: There are fewer GPUs than processes on this machine, or the processes do not
            meet.
    """
    from fastreid.utils import comm

    backend = _prepare_device(place)
    try:
        dist.init_process_group(
            backend,
            init_method=place.url,
            timeout=_COLLECTIVE,
            world_size=place.world_size,
            rank=place.rank,
        )
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        # Of torchrun's own choice.
        if place.url == _OF_TORCHRUN:
            raise
        raise ConfigError(
            f"--dist-url is {place.url!r}, where rank {place.rank} of {place.world_size} does not "
            f"meet the others ({reason(error)}); give an address and a free port of machine 0, or "
            "auto on one machine, and start all machines"
        ) from error
    for machine in range(place.machines):
        first = machine * place.local_size
        ranks = list(range(first, first + place.local_size))
        group = dist.new_group(ranks, timeout=_COLLECTIVE)
        if machine == place.machine:
            comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()
    yield
    # Not after an error: the other processes may be waiting in a collective for ever.
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    dist.destroy_process_group()


@patch(
    "fastreid.utils.comm:_get_global_gloo_group",
    fault="With NCCL it makes a group that waits 30 minutes at most. The others wait in it while "
    "rank 0 scores a target, which takes longer for a large gallery.",
    unless="the processes' own group is gloo's.",
)
@functools.lru_cache
def global_gloo_group() -> Any:
    """Let them wait in it as long as in every other group of the run."""
    if dist.get_backend() == "nccl":
        return dist.new_group(backend="gloo", timeout=_COLLECTIVE)
    return dist.group.WORLD


def _prepare_device(place: Place) -> str:
    if not torch.cuda.is_available():
        # Each process would use every CPU, and they would get into each other's way.
        torch.set_num_threads(max(1, available_cpus() // place.local_size))
        return "gloo"
    gpus = torch.cuda.device_count()
    if place.local_size > gpus:
        raise ConfigError(
            f"--num-gpus asks for {place.local_size} processes, but this machine has {gpus} GPUs; "
            "ask for no more than that, or hide them with CUDA_VISIBLE_DEVICES= to train on CPU"
        )
    # Before the first collective: NCCL binds each process to the device that is current then.
    torch.cuda.set_device(place.local_rank)
    return "nccl"


def _meeting_point(url: str | None, num_machines: int) -> str:
    if url is not None and url != "auto":
        if not _is_address(url):
            raise ConfigError(
                f"--dist-url is {url!r}; give tcp://HOST:PORT of machine 0, or auto on one machine"
            )
        return url
    if num_machines > 1:
        raise ConfigError(
            f"--dist-url is {url!r}, which cannot join {num_machines} machines; give all of them "
            "the same tcp://HOST:PORT of machine 0"
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # PyTorch's other two: a file that all machines see, and variables of the environment.
        if parts.scheme in ("file", "env"):
            return True
        return parts.scheme == "tcp" and bool(parts.hostname) and parts.port is not None
    # A port that is no number, or brackets that are not closed.
    except ValueError:
        return False


def _torchrun_place() -> Place:
    local_size = int(os.environ["LOCAL_WORLD_SIZE"])
    return Place(
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_size=local_size,
        machine=int(os.environ["GROUP_RANK"]),
        machines=int(os.environ["WORLD_SIZE"]) // local_size,
        url=_OF_TORCHRUN,
    )
