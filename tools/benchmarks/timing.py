"""Times of several ways to do the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def times_in_turns(
    arms: Mapping[str, Callable[[], object]], repetitions: int, *, warmups: int = 1, calls: int = 1
) -> dict[str, list[float]]:
    """Run every arm unmeasured, and then all of them in turns, so that all meet the same load.

    Args:
        arms: what to run, by name.
        repetitions: measured runs of each.
        warmups: unmeasured runs of each.
        calls: how often an arm is called in a run. A GPU works while the next call is prepared, so
            that several show what it needs.

    Returns:
        Seconds per call of each measured run, by name.
    """
    for run in arms.values():
        for _ in range(warmups):
            time_once(run, calls)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repetitions):
        for name, run in arms.items():
            seconds[name].append(time_once(run, calls))
    return seconds


def time_once(run: Callable[[], object], calls: int = 1) -> float:
    """Seconds that a call takes, with all that it started on a GPU.

    Args:
        run: the call.
        calls: how often to make it; the seconds are the mean.
    """
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait()
    return (time.perf_counter() - start) / calls


def wait() -> None:
    """Wait until a GPU that this process uses has finished."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
