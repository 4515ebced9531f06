"""How long a campaign of many tries is: a few in every run, all of them with ``EXHAUSTIVE=1``."""

from __future__ import annotations

import os

EXHAUSTIVE = os.environ.get("EXHAUSTIVE", "") not in ("", "0")


def tries(usually: int, exhaustively: int) -> int:
    """The number of tries in this run."""
    return exhaustively if EXHAUSTIVE else usually
