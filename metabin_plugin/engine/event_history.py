"""The scalars of a run's log, carried over a resume."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from fastreid.utils.events import EventStorage
from torch import Tensor

from metabin_plugin.run_folder import logged_scalars
from metabin_plugin.text import shown

logger = logging.getLogger(__name__)

# Longest window over which fastreid's writers smooth a scalar.
WINDOW = 200
# How long things took is no result, and differs between two runs that are otherwise the same.
_TIMES = ("time", "data_time", "eta_seconds")


class RunStorage(EventStorage):
    """fastreid's storage of a run's scalars, which may begin with those of a checkpoint.

    How a scalar is smoothed is for the run to say, once it has a value of its own.
    """

    _iter: int

    def __init__(self, start_iter: int = 0) -> None:
        super().__init__(start_iter)
        self._restored: set[str] = set()

    def put_scalar(self, name: str, value: float, smoothing_hint: bool = True) -> None:
        """Add a value of the iteration at hand."""
        whole_name = self._current_prefix + name
        if whole_name in self._restored:
            self._restored.remove(whole_name)
            del self._smoothing_hints[whole_name]
        super().put_scalar(name, value, smoothing_hint)

    def restore(self, state: dict[str, Any]) -> None:
        """Begin with the scalars of ``history_state``."""
        now = self._iter
        for name, scalar in state.items():
            for value, iteration in scalar["values"].tolist():
                self._iter = int(iteration)
                self.put_scalar(name, value, smoothing_hint=scalar["smoothing"])
        self._iter = now
        self._restored = set(state)


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


def check_history(state: Any, iteration: int) -> None:
    """Refuse what ``history_state`` does not return.

    Args:
        state: plain values, of a checkpoint.
        iteration: number of the checkpoint's next iteration.

    Raises:
        ValueError: the text names the scalar.
    """
    if not isinstance(state, dict):
        raise ValueError("is not a dict of the log's scalars")
    for name, scalar in state.items():
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError(f"has a scalar of the name {shown(repr(name))}")
        match scalar:
            case {
                "values": Tensor(dtype=torch.float64, shape=(int(n), 2)) as values,
                "smoothing": bool(),
            }:
                pass
            case _:
                raise ValueError(f"{shown(name)} is not values and whether to smooth them")
        when = values[:, 1]
        if not 1 <= n <= WINDOW or not bool(((when >= 0) & (when <= iteration)).all()):
            raise ValueError(
                f"{shown(name)} is not 1 to {WINDOW} values of iterations from 0 to {iteration}"
            )


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
