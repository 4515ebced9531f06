"""Times of several ways to do the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def times_in_turns(arms: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list]:
    """Run every arm once unmeasured, and then all of them in turns, so that all meet the same load.

    Args:
        arms: what to run, by name.
        repetitions: measured runs of each.

    Returns:
        Seconds of each measured run, by name.
    """
    for run in arms.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repetitions):
        for name, run in arms.items():
            seconds[name].append(time_once(run))
    return seconds


def time_once(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
