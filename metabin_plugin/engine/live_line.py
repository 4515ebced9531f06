"""How a training stands, in one line of the terminal that is written over."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from statistics import fmean
from typing import TextIO

from fastreid.engine.train_loop import HookBase
from fastreid.utils import comm
from fastreid.utils.events import EventStorage

# fastreid's setup_logger gives it the handlers, and the plugin's loggers are below it.
_LOGGER = "fastreid"
_SECONDS_BETWEEN = 0.5
_METRICS = ("Rank-1", "mAP")
# fastreid's own windows for the scalars and for the time of an iteration.
_WINDOW, _TIME_WINDOW = 20, 1000
_USUAL_WIDTH = 80
_GAP = "  "


class LiveLine(HookBase):
    """Shows epoch, iteration, time left, losses and the last evaluation below the log.

    Every line of the log is written where the live one was, which then comes back under it; what
    else goes into the log, a file among it, is as without. Must come after fastreid's
    ``IterationTimer``. It reads nothing from the device.

    Args:
        handler: writes the log to a terminal.
        seconds: least time between two showings.
    """

    def __init__(
        self, handler: logging.StreamHandler[TextIO], seconds: float = _SECONDS_BETWEEN
    ) -> None:
        self._handler, self._seconds = handler, seconds
        self._shown_at = -seconds
        self._is_shown = False

    def before_train(self) -> None:
        """Make way for the log from now on."""
        self._handler.addFilter(self._make_way)

    def after_step(self) -> None:
        """Show how the training stands, unless that was done just now."""
        now = time.monotonic()
        if now - self._shown_at >= self._seconds:
            self._shown_at = now
            trainer = self.trainer
            epoch = f"epoch {trainer.epoch + 1}/{trainer.max_epoch}"
            self._show([epoch, *progress(trainer.storage, trainer.iter + 1, trainer.max_iter)])

    def after_train(self) -> None:
        """Remove the line."""
        self._clear()
        self._handler.removeFilter(self._make_way)

    def _make_way(self, _record: logging.LogRecord) -> bool:
        self._clear()
        return True

    def _show(self, parts: Sequence[str]) -> None:
        # A line that fills the last column would wrap, and could not be written over.
        self._write(f"\r{fitting(parts, _width(self._handler.stream) - 1)}\x1b[K")
        self._is_shown = True

    def _clear(self) -> None:
        if self._is_shown:
            self._write("\r\x1b[K")
            self._is_shown = False

    def _write(self, text: str) -> None:
        try:
            self._handler.stream.write(text)
            self._handler.stream.flush()
        except OSError:
            # A terminal that was closed is no reason to end a training.
            self._is_shown = False


def live_lines() -> list[LiveLine]:
    """A live line where the main process logs to a terminal that can show one; else none."""
    if not comm.is_main_process() or os.environ.get("TERM") == "dumb":
        return []
    handlers = logging.getLogger(_LOGGER).handlers
    return [LiveLine(h) for h in handlers if isinstance(h, logging.StreamHandler) and _shows(h)][:1]


def progress(storage: EventStorage, done: int, total: int) -> list[str]:
    """Iterations, time left, losses and accuracies, the more important first.

    Args:
        storage: the log's scalars.
        done: iterations that are finished.
        total: iterations of the training.
    """
    parts = [f"iter {done:,}/{total:,}"]
    times = storage.histories().get("time")
    if times is not None:
        left = timedelta(seconds=round(times.median(_TIME_WINDOW) * (total - done)))
        parts.append(f"{left} left")
    parts += _sum_of_losses(storage, "loss", "total_loss")
    parts += _accuracies(storage)
    parts += _sum_of_losses(storage, "meta-train", "mtrain_loss_")
    parts += _sum_of_losses(storage, "meta-test", "mtest_loss_")
    return parts


def fitting(parts: Sequence[str], width: int) -> str:
    """As many parts in one line as fit: a number that is cut short would be another one."""
    line, *others = parts
    for part in others:
        if len(line) + len(part) + len(_GAP) > width:
            break
        line += _GAP + part
    return line[:width]


def _sum_of_losses(storage: EventStorage, label: str, prefix: str) -> list[str]:
    histories = storage.histories().items()
    terms = [history.median(_WINDOW) for name, history in histories if name.startswith(prefix)]
    return [f"{label} {sum(terms):.4g}"] if terms else []


def _accuracies(storage: EventStorage) -> Iterator[str]:
    latest = storage.latest()
    for metric in _METRICS:
        values = [v for name, (v, _) in latest.items() if name.rpartition("/")[2] == metric]
        if values:
            several = f" (mean of {len(values)})" if len(values) > 1 else ""
            yield f"{metric} {fmean(values):.1f}{several}"


def _shows(handler: logging.StreamHandler[TextIO]) -> bool:
    try:
        return handler.stream.isatty()
    except (AttributeError, ValueError):
        # A stream of another kind, or one that was closed.
        return False


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH
    except OSError:
        return _USUAL_WIDTH
