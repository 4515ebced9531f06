"""How far a long piece of work is, now and then."""

from __future__ import annotations

import datetime
import sys
import time

SECONDS = 10.0


class Progress:
    """Prints a line on standard error every ten seconds, with the time that is left.

    Args:
        what: what is counted, "images described" for example.
        total: how many there are.
        done: how many need no work any more.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._done = what, total, done
        self._first = done
        self._start = self._last = time.monotonic()

    def add(self, count: int) -> None:
        """Count some more."""
        self._done += count
        now = time.monotonic()
        if now - self._last < SECONDS:
            return
        self._last = now
        seconds = (now - self._start) / (self._done - self._first) * (self._total - self._done)
        left = datetime.timedelta(seconds=round(seconds))
        print(f"{self._done:,} of {self._total:,} {self._what}, {left} left", file=sys.stderr)
