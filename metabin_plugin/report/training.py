"""The course of a training, from its metrics.json."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metabin_plugin.files import reason
from metabin_plugin.report.files import FigureError, drawn, new_figure
from metabin_plugin.run_folder import METRICS, logged_scalars

# Losses, step sizes and the accuracies that papers print; "*" stands for a target.
USUAL = (
    *("total_loss", "loss_*", "mtrain_loss_*", "mtest_loss_*", "cls_accuracy", "lr", "inner_lr"),
    *("Rank-1", "mAP", "*/Rank-1", "*/mAP"),
)

COLUMNS = 3

# Values by iteration, by the scalar's name.
Scalars = dict[str, dict[int, float]]


def read_scalars(folder: Path) -> Scalars:
    """Read the log of a run.

    A last line that is cut short, by a kill or because the run still writes it, is left out, and so
    is a damaged one, which is said on standard error. Of an iteration that was logged twice the
    later value counts.

    Args:
        folder: the run's ``OUTPUT_DIR``.

    Raises:
        FigureError: there is no log, or no line of it is whole.
    """
    path = folder / METRICS
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise FigureError(
            f"{path} cannot be read ({reason(error)}); give the OUTPUT_DIR of a training"
        ) from error
    scalars: Scalars = {}
    for number, line in enumerate(lines, start=1):
        logged = logged_scalars(line)
        if logged is not None:
            iteration, values = logged
            for name, value in values.items():
                scalars.setdefault(name, {})[iteration] = value
        elif line.endswith(b"\n"):
            print(f"warning: {path}: line {number} is damaged and left out", file=sys.stderr)
    if not scalars:
        raise FigureError(f"{path} has no complete line; let the training run for longer")
    return scalars


def chosen_names(runs: Iterable[Scalars], patterns: Sequence[str]) -> list[str]:
    """Names of scalars that fit a pattern, in the order of the patterns, then of the logs.

    Args:
        runs: scalars of several runs.
        patterns: names in which ``*`` stands for anything.

    Raises:
        FigureError: there are none.
    """
    names = list(dict.fromkeys(name for scalars in runs for name in scalars))
    fitting = [n for pattern in patterns for n in names if fnmatch.fnmatchcase(n, pattern)]
    if not fitting:
        raise FigureError(
            f"no scalar fits {' '.join(patterns)}; the logs have {', '.join(sorted(names))}"
        )
    return list(dict.fromkeys(fitting))


def draw_curves(runs: Mapping[str, Scalars], names: Sequence[str]) -> Any:
    """One panel for each scalar, with a curve for each run that has it.

    Args:
        runs: scalars by the run's name.
        names: the scalars to draw; each is in at least one run.

    Returns:
        A matplotlib figure.
    """
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(4.2 * columns, 2.6 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        for i, (run, scalars) in enumerate(runs.items()):
            curve = dict(sorted(scalars.get(name, {}).items()))
            # A run without the scalar keeps its colour and its place in the legend.
            axes.plot(list(curve), list(curve.values()), ".-", label=drawn(run), color=f"C{i % 10}")
        axes.set_title(drawn(name), fontsize="medium")
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supxlabel("iteration")
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=4, loc="outside upper center")
    return figure
