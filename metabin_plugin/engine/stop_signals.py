"""Ending a training run on SIGTERM or Ctrl-C without losing it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from fastreid.utils import comm

from metabin_plugin.errors import STATUS_BASE

# A scheduler's signal to all processes of a job reaches a rank directly and through its launcher.
SAME_SIGNAL_SECONDS = 1.0


class Stopped(SystemExit):
    """The run was asked to stop; ends the process with the status of the signal.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(STATUS_BASE + number)
        self.number = number


class StopSignals:
    """Remembers SIGTERM and SIGINT until the trainer comes to a point where it can stop.

    A context: the former handlers are back afterwards. A second signal ends the process at once,
    unless it comes within ``SAME_SIGNAL_SECONDS``, which then is the first one again. Outside
    the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self._received = 0
        self._since = 0.0
        self._raises = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                # Ranks that launch() started leave Ctrl-C to their parent.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """Number of the signal that any process of the run has received; 0 for none.

        All processes must call it at the same point.
        """
        if comm.get_world_size() == 1:
            return self._received
        number = torch.tensor(self._received)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=comm._get_global_gloo_group())
        return int(number)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """A block in which a signal raises :class:`Stopped` at once, as nothing is lost there."""
        self._raises = True
        try:
            if self._received:
                raise Stopped(self._received)
            yield
        except Exception as error:
            # A signal to the whole process group kills a loader's workers first.
            if self._received:
                raise Stopped(self._received) from error
            raise
        finally:
            self._raises = False

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received:
            if now - self._since > SAME_SIGNAL_SECONDS:
                os._exit(STATUS_BASE + number)
            return
        self._received, self._since = number, now
        if self._raises:
            raise Stopped(number)
