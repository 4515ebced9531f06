"""Drawing the curves of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from report.files import new_figure
from report.metrics_log import Scalars

COLUMNS = 3


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
            axes.plot(list(curve), list(curve.values()), ".-", label=run, color=f"C{i % 10}")
        axes.set_title(name, fontsize="medium")
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supxlabel("iteration")
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=4, loc="outside upper center")
    return figure
