"""Processes of loader workers: deaf to the signals, ended by one kill, with the plugin registered.

Terminal and job scheduler send Ctrl-C and SIGTERM to all processes at once. They are the training's
to answer, which finishes its iteration and needs its workers for that. What ends a worker is its
parent, and a worker only reads.

A process started by ``spawn`` (the rule on macOS and Windows) or ``forkserver`` (on Linux, from
Python 3.14) imports what it is sent: first the parent's main module, whose guarded part is left
out, and ``register()`` with it; then modules of fastreid, which cannot be imported before that.
"""

from __future__ import annotations

import copy
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.queues import Queue
from typing import Any

from torch._utils import ExceptionWrapper

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
