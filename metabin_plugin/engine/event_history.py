"""The scalars of a run's log, carried over a resume."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from fastreid.utils.events import EventStorage

from metabin_plugin.run_folder import logged_scalars

logger = logging.getLogger(__name__)

# Longest window over which fastreid's writers smooth a scalar.
WINDOW = 200
# How long things took is no result, and differs between two runs that are otherwise the same.
_TIMES = ("time", "data_time", "eta_seconds")


def history_state(storage: EventStorage) -> dict[str, Any]:
    """The latest values of every scalar but the times.

    Returns:
        By name: ``values``, float64 (n, 2) of values and iterations with n <= ``WINDOW``, and
        ``smoothing``, the scalar's hint to the writers.
    """
    hints = storage.smoothing_hints()
    return {
        name: {
            "values": torch.tensor(history.values()[-WINDOW:], dtype=torch.float64),
            "smoothing": hints[name],
        }
        for name, history in storage.histories().items()
        if name not in _TIMES
    }


def restore_history(storage: EventStorage, state: dict[str, Any]) -> None:
    """Put the scalars of ``history_state`` into a new storage."""
    now = storage.iter
    for name, scalar in state.items():
        for value, iteration in scalar["values"].tolist():
            storage.iter = iteration
            storage.put_scalar(name, value, smoothing_hint=scalar["smoothing"])
    storage.iter = now


def cut_metrics_file(path: str, iteration: int) -> int:
    """Drop the lines of ``metrics.json`` that a resumed run will write again.

    Damaged lines before them stay where they are, and are logged with their numbers.

    Args:
        path: the file; it may be missing.
        iteration: first iteration of the resumed run.

    Returns:
        Iteration of the last line that is left; -1 if there is none.
    """
    if not os.path.isfile(path):
        return -1
    last, end, place = -1, 0, 0
    damaged: list[int] = []
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            place += len(line)
            scalars = logged_scalars(line)
            if scalars is None:
                damaged.append(number)
            elif scalars[0] < iteration:
                last, end = max(last, scalars[0]), place
                for lost in damaged:
                    logger.warning("%s: line %d is damaged and lost", path, lost)
                damaged.clear()
            else:
                break
    os.truncate(path, end)
    return last
