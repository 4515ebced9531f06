"""Draw which way each meta-train loss moves the gates of a trained network (paper, Fig. 5).

python tools/plot_gate_gradients.py CHECKPOINT [CHECKPOINT ...] [--batches 20]
    [--config-file CONFIG] [--output gate_gradients.png] [--opts KEY VALUE ...]

Every term of METABIN.META_TRAIN_LOSSES is differentiated alone, on meta-train mini-batches of the
training data, the same for all checkpoints. Checkpoints of one training give a curve over its
iterations. Numbers: gate_gradients.csv, and gate_gradients_layers.csv by layer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from metabin_plugin.report.files import (
    FigureError,
    beside,
    check_output,
    config_of,
    save_figure,
    write_table,
)
from metabin_plugin.report.gate_gradients import (
    Curve,
    MetaTrainBatches,
    TermGradients,
    draw_gradients,
    iteration_of,
    measure_gradients,
    network_with_gates,
)
from metabin_plugin.weights.files import read_weight_file

COLUMNS = ("iteration", "term", "batches", "gates")
NUMBERS = ("positive", "negative", "zero", "mean")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="checkpoint")
    parser.add_argument("--batches", type=int, default=20, help="mini-batches to average over")
    parser.add_argument("--config-file", default="", help="config.yaml beside the checkpoint")
    parser.add_argument("--output", type=Path, default=Path("gate_gradients.png"))
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs for the config")
    options = parser.parse_args(arguments)
    if options.batches < 1:
        raise FigureError(f"--batches is {options.batches}; give at least 1")
    check_output(options.output)
    checkpoints = by_iteration(options.checkpoints)
    cfg = config_of(options.checkpoints[0], options.config_file, options.opts)
    batches = MetaTrainBatches(cfg, options.batches)
    measured: dict[int, dict[str, TermGradients]] = {}
    for iteration, path in checkpoints.items():
        network = network_with_gates(
            config_of(path, options.config_file, options.opts), batches.num_identities
        )
        measured[iteration] = measure_gradients(network, cfg.METABIN.META_TRAIN_LOSSES, batches)
        print_shares(path, measured[iteration])
    write_tables(measured, options.output)
    save_figure(draw_gradients(measured), options.output)


def by_iteration(paths: Sequence[Path]) -> dict[int, Path]:
    """Checkpoints in the order of their training; one alone that does not say its iteration at 0.

    Raises:
        WeightsError: a file is missing or damaged.
        FigureError: one of several does not say its iteration, or two are of the same one.
    """
    found: dict[int, Path] = {}
    for path in paths:
        iteration = iteration_of(read_weight_file(str(path)))
        if iteration is None and len(paths) > 1:
            raise FigureError(
                f"{path} does not say its iteration, which would place it among the others; "
                "give it alone"
            )
        if iteration in found:
            raise FigureError(
                f"{path} and {found[iteration]} are both of iteration {iteration}; give "
                "different checkpoints of one training"
            )
        found[iteration or 0] = path
    return dict(sorted(found.items()))


def print_shares(path: Path, terms: dict[str, TermGradients]) -> None:
    """Print one line for each term."""
    print(path)
    for name, term in terms.items():
        positive, negative, zero = term.shares()
        print(f"  {name:8} {positive:6.1%} positive {negative:6.1%} negative {zero:6.1%} zero")


def write_tables(measured: Curve, figure: Path) -> None:
    """Write the two CSV files of a figure."""
    columns = [*COLUMNS, *NUMBERS, "std_of_positive"]
    write_table(beside(figure), columns, _rows(measured))
    columns = [*COLUMNS[:2], "layer", *COLUMNS[2:], *NUMBERS]
    write_table(beside(figure, "layers"), columns, _layer_rows(measured))


def _rows(measured: Curve) -> Iterator[list[object]]:
    for iteration, terms in measured.items():
        for name, term in terms.items():
            sizes = [len(term.total), term.gates.sum()]
            yield [iteration, name, *sizes, *term.shares(), term.mean(), term.deviation()]


def _layer_rows(measured: Curve) -> Iterator[list[object]]:
    for iteration, terms in measured.items():
        for name, term in terms.items():
            numbers = zip(
                term.layers, term.gates, term.layer_shares(), term.layer_means(), strict=True
            )
            for layer, gates, shares, mean in numbers:
                yield [iteration, name, layer, len(term.total), gates, *shares, mean]
