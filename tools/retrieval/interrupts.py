"""Stopping a long command: what was kept is said, and how to go on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from metabin_plugin.cli import STATUS_BASE


class Stop(BaseException):
    """A signal asks the command to stop.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable(advice: Callable[[], str]) -> Iterator[None]:
    """A block that Ctrl-C or SIGTERM ends with a sentence and the status of the signal.

    Unlike ``run_cli`` it says how much was kept, and also hears a scheduler.

    Args:
        advice: gives the sentence.

    Raises:
        SystemExit: after a signal, with 128 and its number.
    """
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        received.append(number)
        raise Stop(number)

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    # Faiss makes an exception of its own of what a handler raises.
    except BaseException:
        if not received:
            raise
        print(f"\nstopped; {advice()}", file=sys.stderr)
        raise SystemExit(STATUS_BASE + received[0]) from None
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
