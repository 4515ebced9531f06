"""Draw the curves of one or more trainings: losses, step sizes, accuracies on the targets.

python tools/plot_training.py OUTPUT_DIR [OUTPUT_DIR ...] [--labels NAME ...]
    [--scalars 'mtrain_*' ...] [--output training.png]

They are read from each run's metrics.json, to which fastreid writes after every epoch and every 200
iterations, and which has all evaluations but the last. Numbers: training.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from metabin_plugin.report.files import beside, check_output, label_paths, save_figure, write_table
from metabin_plugin.report.training import USUAL, chosen_names, draw_curves, read_scalars


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the logs, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="an OUTPUT_DIR")
    parser.add_argument("--labels", nargs="+", help="a name for each (the end of its path)")
    parser.add_argument("--scalars", nargs="+", default=USUAL, help="names, * for anything")
    parser.add_argument("--output", type=Path, default=Path("training.png"))
    options = parser.parse_args(arguments)
    check_output(options.output)
    labels = label_paths(options.runs, options.labels)
    runs = dict(zip(labels, map(read_scalars, options.runs), strict=True))
    names = chosen_names(runs.values(), options.scalars)
    rows = [
        [run, name, iteration, value]
        for name in names
        for run, scalars in runs.items()
        for iteration, value in sorted(scalars.get(name, {}).items())
    ]
    write_table(beside(options.output), ["run", "scalar", "iteration", "value"], rows)
    save_figure(draw_curves(runs, names), options.output)
