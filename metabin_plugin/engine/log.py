"""What a training tells: the live line, the gates, and its metrics over a resume."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from statistics import fmean
from typing import Any, TextIO

import torch
from fastreid.engine.train_loop import HookBase
from fastreid.utils import comm
from fastreid.utils.events import EventStorage, EventWriter, get_event_storage
from torch import Tensor

from metabin_plugin.norm.network import WHOLE, network_parts
from metabin_plugin.run_folder import logged_scalars
from metabin_plugin.text import shown

logger = logging.getLogger(__name__)

# fastreid's setup_logger gives it the handlers, and the plugin's loggers are below it.
_LOGGER = "fastreid"
_SECONDS_BETWEEN = 0.5
_METRICS = ("Rank-1", "mAP")
# fastreid's own windows for the scalars and for the time of an iteration.
_LINE_WINDOW, _TIME_WINDOW = 20, 1000
_USUAL_WIDTH = 80
_GAP = "  "
# fastreid's default of 1,000 would add half a megabyte to the events file at every writing.
BINS = 20
# Longest window over which fastreid's writers smooth a scalar.
WINDOW = 200
# Mean cosine of features to their domain's centroid from which on they count as parallel.
_PARALLEL = 0.99
# How long things took is no result, and differs between two runs that are otherwise the same.
_TIMES = ("time", "data_time", "eta_seconds")


class LiveLine(HookBase):
    """Shows epoch, iteration, time left, losses and the last evaluation below the log.

    Every line of the log is written where the live one was, which then comes back under it; what
    else goes into the log, a file among it, is as without. Must come after fastreid's
    ``IterationTimer``. It reads nothing from the device.

    It is no bar of tqdm's, which cuts a number short where the terminal ends, and whose error ends
    the training where the terminal is gone.

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
            self._show([epoch, *line_parts(trainer.storage, trainer.iter + 1, trainer.max_iter)])

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


def line_parts(storage: EventStorage, done: int, total: int) -> list[str]:
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
    terms = [
        storage.history(name).median(_LINE_WINDOW)
        for name, (_, iteration) in storage.latest().items()
        # The meta step may end before the training.
        if name.startswith(prefix) and iteration > storage.iter - _LINE_WINDOW
    ]
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


class GateLog(EventWriter):
    """Stores the gates (rho, Eq. 1) for the writers behind it, at the iterations that they write.

    Histograms ``gates/all`` and ``gates/LAYER``. Scalars ``gates_mean/PART``, and
    ``gates_below_half/PART``, the share of gates that take more of instance than of batch
    normalization, of the whole network and of its thirds. The device is waited for once, and in no
    other iteration.

    Args:
        gates: gates (C,) by parameter name, in the order of the network.
    """

    def __init__(self, gates: Mapping[str, Tensor]) -> None:
        self._gates = list(gates.values())
        self._layers = [_layer(name) for name in gates]

    def write(self) -> None:
        """Store histograms and scalars, once for each iteration."""
        storage = get_event_storage()
        _, written = storage.latest().get(f"gates_mean/{WHOLE}", (0.0, -1))
        # The end of an epoch is written a second time, in a resumed run by another object.
        if written == storage.iter:
            return
        values = torch.cat([gate.detach().flatten() for gate in self._gates]).float().cpu()
        split = values.split([gate.numel() for gate in self._gates])
        layers = dict(zip(self._layers, split, strict=True))
        storage.put_histogram(f"gates/{WHOLE}", values, BINS)
        for name, layer in layers.items():
            storage.put_histogram(f"gates/{name}", layer, BINS)
        for part, names in network_parts(self._layers).items():
            _put_scalars(storage, part, torch.cat([layers[name] for name in names]))


class FeatureWatch(EventWriter):
    """Warns once where the features of all people have become parallel.

    Triplets of raw features can be met with shorter and shorter features that all point the same
    way: the triplet loss then stays near its margin, and cosines tell nobody apart. The scatter
    loss (Eq. 6) is a mean cosine, and shows it.

    Args:
        raw_triplets: whether the base step has triplets of raw features: "TripletLoss" in
            ``MODEL.LOSSES.NAME``, without ``MODEL.LOSSES.TRI.NORM_FEAT``.
        rate: the step size of the weights, ``SOLVER.BASE_LR``.
    """

    def __init__(self, raw_triplets: bool, rate: float) -> None:
        lower = f"lower SOLVER.BASE_LR, {rate!r} now"
        self._advice = "set MODEL.LOSSES.TRI.NORM_FEAT True" if raw_triplets else lower
        self._has_warned = False

    def write(self) -> None:
        """Look at the median of the last iterations."""
        losses = get_event_storage().histories().get("mtrain_loss_scatter")
        if losses is None or self._has_warned:
            return
        cosine = losses.median(_LINE_WINDOW)
        if cosine > _PARALLEL:
            self._has_warned = True
            logger.warning(
                "features of different people have become parallel (mtrain_loss_scatter %.4f), so "
                "that their cosines tell little; %s",
                cosine,
                self._advice,
            )


def _put_scalars(storage: EventStorage, part: str, gates: Tensor) -> None:
    below = (gates < 0.5).float()
    storage.put_scalar(f"gates_mean/{part}", gates.mean(), smoothing_hint=False)
    storage.put_scalar(f"gates_below_half/{part}", below.mean(), smoothing_hint=False)


def _layer(name: str) -> str:
    return name.removeprefix("module.").removeprefix("backbone.").removesuffix(".gate")


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
