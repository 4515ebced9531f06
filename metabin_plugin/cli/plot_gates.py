"""Draw the gates of trained networks, and write the numbers behind the figure.

python tools/plot_gates.py CHECKPOINT [CHECKPOINT ...] [--labels NAME ...] [--output gates.png]

Beside gates.png it leaves gates.csv (each layer), gates_parts.csv (the network, and the shallow,
middle and deep third of its layers) and gates_histogram.csv (all gates of the network).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from metabin_plugin.report.files import beside, check_output, label_paths, save_figure, write_table
from metabin_plugin.report.gates import (
    COLUMNS,
    Gates,
    all_gates,
    draw_gates,
    gates_of_parts,
    histogram,
    read_gates,
    summary,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the checkpoints, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="checkpoint")
    parser.add_argument("--labels", nargs="+", help="a name for each (the end of its path)")
    parser.add_argument("--output", type=Path, default=Path("gates.png"))
    options = parser.parse_args(arguments)
    check_output(options.output)
    labels = label_paths(options.checkpoints, options.labels)
    gates = map(read_gates, options.checkpoints)
    networks = dict(zip(labels, gates, strict=True))
    write_tables(networks, options.output)
    save_figure(draw_gates(networks), options.output)


def write_tables(networks: dict[str, Gates], figure: Path) -> None:
    """Write the three CSV files of a figure."""
    layers = [
        [network, name, *summary(gate)]
        for network, gates in networks.items()
        for name, gate in gates.items()
    ]
    write_table(beside(figure), ["network", "layer", *COLUMNS], layers)
    parts = [
        [network, name, len(part), *summary(all_gates(part))]
        for network, gates in networks.items()
        for name, part in gates_of_parts(gates).items()
    ]
    write_table(beside(figure, "parts"), ["network", "part", "layers", *COLUMNS], parts)
    bins = [
        [network, edges[i], edges[i + 1], share]
        for network, gates in networks.items()
        for shares, edges in [histogram(gates)]
        for i, share in enumerate(shares)
    ]
    write_table(beside(figure, "histogram"), ["network", "from", "to", "share"], bins)
