"""Loader workers that outlive a signal to the process group, but never their training."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator
from multiprocessing.util import Finalize
from typing import Any

# Queues close at an exit priority of 10, and the workers hear of their end through a queue.
_BEFORE_QUEUES = 100


def ignore_stop_signals(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the training process, which finishes its iteration.

    Terminal and job scheduler send them to all processes at once. It is a ``worker_init_fn``.

    Args:
        worker: number of the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class WorkerLease:
    """Ends the workers of a PyTorch loader's iterator, on request or with the process.

    A process ends its children with SIGTERM and waits for them. Workers that ignore it have to be
    told to stop before.

    Args:
        batches: PyTorch's iterator over a loader with any number of workers.
    """

    def __init__(self, batches: Iterator[Any]) -> None:
        # Children of multiprocessing run finalizers only; elsewhere those come too late, after
        # PyTorch's own exit hook, which makes its iterators deaf.
        self._finalizer = Finalize(None, _end_workers, (batches,), exitpriority=_BEFORE_QUEUES)
        atexit.register(self._finalizer)

    def end(self) -> None:
        """End the workers; a second call does nothing."""
        atexit.unregister(self._finalizer)
        self._finalizer()


def _end_workers(batches: Any) -> None:
    workers = getattr(batches, "_workers", [])
    if not workers:
        return
    batches._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            # It hangs in reading an image: PyTorch has waited for seconds.
            worker.kill()
