"""Loaders whose worker processes fail in a sentence, end with their parent, and start anywhere.

PyTorch's loader is kept, with processes and queues of another kind. ``concurrent.futures`` is no
replacement: after Ctrl-C its processes and threads are waited for as long as they hang.
"""

from __future__ import annotations

import copy
import errno
import multiprocessing
import multiprocessing.util
import queue
import re
import shutil
import signal
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, _utils
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from metabin_plugin.errors import LoaderError, MetaBINError

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHARED_MEMORY = "/dev/shm"
# Queues close at an exit priority of 10.
_BEFORE_QUEUES = 100
_LAST_SECONDS = 5.0
# As Python and as PyTorch's shared memory write the number of a system's error.
_ERROR_NUMBER = re.compile(r"\[Errno (\d+)\]|</torch_\w+>.*\((\d+)\)")
# What a reader meets whose sender died before it had handed over all of a batch.
_LOST_SENDER = (EOFError, OSError)
_SENDER_SECONDS = 1.0
_NO_FILES = "too many files are open; lower {key}, or raise the limit (ulimit -n)"
_NO_PROCESS = (
    "the system gives no further process or memory; lower {key}, or raise the limit (ulimit -u, a "
    "container's limits of processes and memory)"
)
_FAULTS = {
    errno.EMFILE: _NO_FILES,
    errno.ENFILE: _NO_FILES,
    errno.EAGAIN: _NO_PROCESS,
    errno.ENOMEM: _NO_PROCESS,
    errno.ENOSPC: (
        "/dev/shm{size}, through which they hand over their batches, is too small; set {key} to 0, "
        "or make it larger, for a container with --shm-size=8g"
    ),
}


class WorkerLoader(DataLoader[Any]):
    """PyTorch's loader; its workers end on an error, with the iteration and with the process.

    They leave Ctrl-C and SIGTERM to the process that started them. A worker that cannot be started,
    cannot hand over its batch or dies is an error of the next batch asked for, never a wait without
    end.

    Args:
        workers_key: setting of the number of workers, for the error texts.
        **kwargs: as for :class:`torch.utils.data.DataLoader`.
    """

    def __init__(self, *, workers_key: str = "DATALOADER.NUM_WORKERS", **kwargs: Any) -> None:
        kwargs.setdefault("multiprocessing_context", worker_context(kwargs.get("num_workers", 0)))
        super().__init__(**kwargs)
        self.workers_key = workers_key

    def _get_iterator(self) -> _BaseDataLoaderIter:
        return WorkerBatches(self) if self.num_workers else super()._get_iterator()


class WorkerBatches(_MultiProcessingDataLoaderIter):
    """The batches of a ``WorkerLoader`` with workers.

    Args:
        loader: the loader.

    Raises:
        LoaderError: the system allows no further process, file or memory.
    """

    def __init__(self, loader: WorkerLoader) -> None:
        self._key, self._count = loader.workers_key, loader.num_workers
        self._lost: Any = None
        # Each worker would make a folder of its own, and leave it behind when it is killed.
        multiprocessing.util.get_temp_dir()
        try:
            super().__init__(loader)
            self._leave_sigchld()
            Finalize(self, _kill, (self._workers,), exitpriority=_BEFORE_QUEUES)
            threading.Thread(
                target=_watch, args=(weakref.ref(self), list(self._workers)), daemon=True
            ).start()
        except BaseException as error:
            self._fail(error)
            raise

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            StopIteration: there are no more batches.
            LoaderError: a worker is gone, or cannot hand over its batch.
        """
        try:
            return super().__next__()
        except StopIteration:
            raise
        except BaseException as error:
            self._fail(error)
            raise

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        self._shutdown_workers()

    def kill(self) -> None:
        """End the workers whatever they do."""
        # PyTorch has nothing left to do then.
        self._shutdown = True
        self._leave_sigchld()
        if hasattr(self, "_pin_memory_thread"):
            self._pin_memory_thread_done_event.set()
        _kill(getattr(self, "_workers", []))

    def lose(self, number: int) -> None:
        """Note the death of a worker, and let nobody wait for it; from any thread.

        Args:
            number: of the worker.
        """
        self._lost = self._workers[number]
        # If it died amid a message, the reader waits for the rest until all its writers are gone.
        for worker in self._workers:
            worker.kill()
        if self._pin_memory:
            self._data_queue.put(None)
        else:
            self._worker_result_queue._writer.close()  # type: ignore[attr-defined]

    def _leave_sigchld(self) -> None:
        # PyTorch reports a worker's death from a signal handler: an error in the middle of whatever
        # the main thread does at that time.
        if getattr(self, "_worker_pids_set", False):
            _utils.signal_handling._remove_worker_pids(id(self))
            self._worker_pids_set = False

    def _shutdown_workers(self) -> None:
        if self._shutdown:
            return
        if self._lost is None:
            super()._shutdown_workers()
        else:
            # One that was killed may have held a lock that PyTorch would wait for.
            self.kill()

    def _try_get_data(self, timeout: float = _utils.MP_STATUS_CHECK_INTERVAL) -> tuple[bool, Any]:
        try:
            data = self._data_queue.get(timeout=timeout)
        except queue.Empty:
            data = None
        if self._lost is not None:
            raise RuntimeError("a worker is gone")
        return data is not None, data

    def _fail(self, error: BaseException) -> None:
        """End the workers; raise the error in the user's words, where it is the system's."""
        if self._lost is None:
            self._lost = self._dead(_SENDER_SECONDS if isinstance(error, _LOST_SENDER) else 0)
        self.kill()
        if isinstance(error, MetaBINError) or not isinstance(error, Exception):
            return
        if self._lost is not None:
            fault = _ending(self._lost.exitcode)
        else:
            fault = _FAULTS.get(_error_number(error) or 0, "")
        if fault:
            raise LoaderError(
                f"{self._key}: with {self._count} loader workers "
                + fault.format(key=self._key, size=_shared_memory())
            ) from error

    def _dead(self, seconds: float) -> Any:
        """A worker that has ended by itself, or does so within some seconds; None if all live."""
        workers = {worker.sentinel: worker for worker in getattr(self, "_workers", [])}
        ended = wait(list(workers), seconds) if workers else []
        return workers[ended[0]] if ended else None  # type: ignore[index]


def _watch(batches: weakref.ref[WorkerBatches], workers: Sequence[Any]) -> None:
    """Wait for the end of every worker, and report one that nobody has asked for."""
    left = {worker.sentinel: number for number, worker in enumerate(workers)}
    while left:
        for sentinel in wait(list(left)):
            number = left.pop(sentinel)  # type: ignore[call-overload]
            owner = batches()
            if owner is None or owner._shutdown:
                return
            if owner._workers_status[number]:
                owner.lose(number)
                return
            del owner


def _kill(workers: Sequence[Any]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(_LAST_SECONDS)


def _ending(status: int | None) -> str:
    if status == -signal.SIGBUS:
        return _FAULTS[errno.ENOSPC]
    how = f"ended with status {status}"
    if status is not None and status < 0:
        how = f"was killed by {signal.Signals(-status).name}"
    return (
        f"one of them {how}; if the machine is out of memory lower {{key}}, and with 0 the process "
        "that needs the images reads them"
    )


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if "items of ancdata" in str(error):
        # A file's number was sent, and could not be received.
        return errno.EMFILE
    # One that comes from a worker has its number in the text only.
    found = _ERROR_NUMBER.search(str(error))
    return int(found.group(1) or found.group(2)) if found else None


def _shared_memory() -> str:
    try:
        return f" ({shutil.disk_usage(_SHARED_MEMORY).total / 2**20:.0f} MB)"
    except OSError:
        return ""


def worker_context(workers: int) -> BaseContext | None:
    """The ``multiprocessing_context`` of a PyTorch loader.

    Its processes are deaf to Ctrl-C and SIGTERM from their first moment on, ``terminate()`` kills
    them, and they register the plugin where they do not inherit it. Its queues lose nothing: what
    cannot be sent arrives as the error.

    Args:
        workers: number of the loader's workers.

    Returns:
        None where there are no workers.
    """
    if workers == 0:
        return None
    # Asked for otherwise, the rule would become the script's choice, which it may not change again.
    method = multiprocessing.get_start_method(allow_none=True) or _rule()
    # The original is everyone's.
    context: Any = copy.copy(multiprocessing.get_context(method))
    context.Process = _worker_kind(context.Process)
    context.Queue = lambda maxsize=0: _LosslessQueue(maxsize, ctx=context.get_context())
    return context


def _rule() -> str:
    return multiprocessing.get_all_start_methods()[0]


class _Worker:
    """What the processes of every start method have in common."""

    _popen: Any

    def start(self) -> None:
        try:
            # Else a signal could come when the child is there and nobody knows it yet.
            with _held_signals():
                super().start()  # type: ignore[misc]
        except BaseException:
            if self._popen is not None:
                self._popen.kill()
            raise
        # Python ends the children of a process with SIGTERM, and then waits for them without end.
        self._popen.terminate = self._popen.kill

    def run(self) -> None:
        # What a process forked by another one, or started anew, does not inherit.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "pthread_sigmask"):
            # PyTorch's worker sets a handler of its own for SIGTERM, whatever is set here.
            signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        super().run()  # type: ignore[misc]

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickled in this order: the state names classes that are only found after registration.
        return _process, (_Registration(), type(self).__bases__[1], self.__dict__)


def _worker_kind(process: Any) -> Any:
    return type(f"Worker{process.__name__}", (_Worker, process), {})


@contextmanager
def _held_signals() -> Iterator[None]:
    """A block in which Ctrl-C and SIGTERM wait, in this thread and in the processes it starts."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


class _Registration:
    """Registers the plugin where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        from metabin_plugin import register

        return register, ()


def _process(_done: None, kind: Any, state: dict[str, Any]) -> Any:
    kind = _worker_kind(kind)
    process = kind.__new__(kind)
    process.__dict__.update(state)
    return process


class _LosslessQueue(Queue):  # type: ignore[type-arg]
    """A queue of ``(number, value)``; a value that cannot be sent becomes the error in its place.

    Python's own prints such an error, from a thread, and the other side waits for ever.
    """

    def _on_queue_feeder_error(self, error: Exception, message: Any) -> None:
        if isinstance(message, tuple):
            self.put((message[0], ExceptionWrapper(where="in handing over a batch")))
        else:
            # It was packed already: the other side is gone.
            super()._on_queue_feeder_error(error, message)  # type: ignore[misc]
