"""``metabin plot``: figures of trained networks and of trainings, each with its numbers as CSV."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from fastreid.config import CfgNode

from metabin_plugin.engine import trained_network
from metabin_plugin.files import check_table
from metabin_plugin.report.embeddings import (
    Panel,
    choose,
    draw_maps,
    extract,
    neighbour_map,
    query_distances,
)
from metabin_plugin.report.files import (
    FigureError,
    beside,
    check_output,
    config_of,
    label_paths,
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
from metabin_plugin.report.training import USUAL, chosen_names, draw_curves, read_scalars
from metabin_plugin.weights.files import read_weight_file

Panels = Mapping[str, Mapping[str, Panel]]

_OF_GRADIENTS = ("positive", "negative", "zero", "mean")
# Columns of the tables behind a figure, by what their names end in.
TABLES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "embeddings": {
        "": ("network", "target", "role", "identity", "camera", "x", "y"),
        "distances": ("network", "target", "matches", "match_distance", "distance", "ratio"),
    },
    "gates": {
        "": ("network", "layer", *COLUMNS),
        "parts": ("network", "part", "layers", *COLUMNS),
        "histogram": ("network", "from", "to", "share"),
    },
    "gate-gradients": {
        "": ("iteration", "term", "batches", "gates", *_OF_GRADIENTS, "std_of_positive"),
        "layers": ("iteration", "term", "layer", "batches", "gates", *_OF_GRADIENTS),
    },
    "training": {"": ("run", "scalar", "iteration", "value")},
}


def run(options: Namespace) -> None:
    """Draw the figure that was asked for."""
    check_output(options.output)
    option = f"--output {options.output}"
    for what, columns in TABLES[options.figure].items():
        check_table(beside(options.output, what), columns, option, FigureError)
    FIGURES[options.figure](options)
    tables = ", ".join(str(beside(options.output, what)) for what in TABLES[options.figure])
    print(f"{options.output}, and its numbers: {tables}")


def _write(options: Namespace, what: str, rows: Iterable[Sequence[object]]) -> None:
    """Write one of the tables behind the figure."""
    write_table(beside(options.output, what), TABLES[options.figure][what], rows)


def plot_embeddings(options: Namespace) -> None:
    """Extract features, measure, map, write and draw."""
    if options.identities < 0:
        raise FigureError(f"--identities is {options.identities!r}; give 0, for all, or more")
    labels = label_paths(options.checkpoints, options.labels)
    configs = [config_of(p, options.config_file, options.opts) for p in options.checkpoints]
    targets = options.datasets or list(configs[0].DATASETS.TESTS)
    if not targets:
        raise FigureError("DATASETS.TESTS is empty; name targets by --datasets")
    panels = {
        label: map_targets(cfg, targets, options.identities)
        for label, cfg in zip(labels, configs, strict=True)
    }
    _write(options, "", _places(panels))
    _write(options, "distances", _distances(panels))
    save_figure(draw_maps(panels, options.lines), options.output)


def map_targets(cfg: CfgNode, targets: Sequence[str], identities: int) -> dict[str, Panel]:
    """One network's maps, by target."""
    network = trained_network(cfg, "MODEL.WEIGHTS is empty")
    panels = {}
    for name in targets:
        whole = extract(cfg, network, name)
        chosen = choose(whole, identities)
        panels[name] = Panel(chosen, *neighbour_map(chosen), query_distances(whole))
    return panels


def _places(panels: Panels) -> Iterator[list[object]]:
    for network, by_target in panels.items():
        for name, panel in by_target.items():
            sides = (panel.target.query, panel.target.gallery)
            for role, images, places in zip(
                ("query", "gallery"), sides, (panel.query, panel.gallery), strict=True
            ):
                rows = zip(images.identities, images.cameras, places.tolist(), strict=True)
                for identity, camera, (x, y) in rows:
                    yield [network, name, role, identity, camera, x, y]


def _distances(panels: Panels) -> Iterator[list[object]]:
    for network, by_target in panels.items():
        for name, panel in by_target.items():
            found = panel.distances
            yield [network, name, found.matches, found.of_matches, found.of_all, found.ratio]


def plot_gates(options: Namespace) -> None:
    """Read the checkpoints, write and draw."""
    labels = label_paths(options.checkpoints, options.labels)
    gates = map(read_gates, options.checkpoints)
    networks = dict(zip(labels, gates, strict=True))
    for what, rows in _gate_rows(networks).items():
        _write(options, what, rows)
    save_figure(draw_gates(networks), options.output)


def _gate_rows(networks: dict[str, Gates]) -> dict[str, list[list[object]]]:
    """Rows of the three tables: of layers, parts and histograms."""
    layers: list[list[object]] = [
        [network, name, *summary(gate)]
        for network, gates in networks.items()
        for name, gate in gates.items()
    ]
    parts: list[list[object]] = [
        [network, name, len(part), *summary(all_gates(part))]
        for network, gates in networks.items()
        for name, part in gates_of_parts(gates).items()
    ]
    bins: list[list[object]] = [
        [network, edges[i], edges[i + 1], share]
        for network, gates in networks.items()
        for shares, edges in [histogram(gates)]
        for i, share in enumerate(shares)
    ]
    return {"": layers, "parts": parts, "histogram": bins}


def plot_gate_gradients(options: Namespace) -> None:
    """Measure, write and draw."""
    if options.batches < 1:
        raise FigureError(f"--batches is {options.batches!r}; give at least 1")
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
    _write(options, "", _term_rows(measured))
    _write(options, "layers", _layer_rows(measured))
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


def _term_rows(measured: Curve) -> Iterator[list[object]]:
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


def plot_training(options: Namespace) -> None:
    """Read the logs, write and draw."""
    labels = label_paths(options.runs, options.labels)
    runs = dict(zip(labels, map(read_scalars, options.runs), strict=True))
    names = chosen_names(runs.values(), options.scalars or USUAL)
    rows = [
        [run, name, iteration, value]
        for name in names
        for run, scalars in runs.items()
        for iteration, value in sorted(scalars.get(name, {}).items())
    ]
    _write(options, "", rows)
    save_figure(draw_curves(runs, names), options.output)


FIGURES = {
    "embeddings": plot_embeddings,
    "gates": plot_gates,
    "gate-gradients": plot_gate_gradients,
    "training": plot_training,
}
