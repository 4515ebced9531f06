"""Map query and gallery features of unseen targets by t-SNE, networks side by side (Fig. 3).

python tools/plot_embeddings.py CHECKPOINT [CHECKPOINT ...] [--labels NAME ...] [--lines]
    [--datasets NAME ...] [--identities 40] [--output embeddings.png] [--opts KEY VALUE ...]

Each network has the config that its training left beside its checkpoint. Beside embeddings.png it
leaves embeddings.csv, the place of each image, and embeddings_distances.csv: how far queries are
from their matches and from all gallery images, over the whole of each target's first split.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fastreid.config import CfgNode

from metabin_plugin.engine import trained_network
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

Panels = Mapping[str, Mapping[str, Panel]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Extract features, measure, map, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="checkpoint")
    parser.add_argument("--labels", nargs="+", help="a name for each (the end of its path)")
    parser.add_argument("--datasets", nargs="+", help="targets (DATASETS.TESTS of the first)")
    parser.add_argument("--identities", type=int, default=40, help="how many to map; 0 for all")
    parser.add_argument("--lines", action="store_true", help="join queries and their matches")
    parser.add_argument("--config-file", default="", help="config.yaml beside each checkpoint")
    parser.add_argument("--output", type=Path, default=Path("embeddings.png"))
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs for the configs")
    options = parser.parse_args(arguments)
    if options.identities < 0:
        raise FigureError(f"--identities is {options.identities}; give 0, for all, or more")
    check_output(options.output)
    labels = label_paths(options.checkpoints, options.labels)
    configs = [config_of(p, options.config_file, options.opts) for p in options.checkpoints]
    targets = options.datasets or list(configs[0].DATASETS.TESTS)
    if not targets:
        raise FigureError("DATASETS.TESTS is empty; name targets by --datasets")
    panels = {
        label: map_targets(cfg, targets, options.identities)
        for label, cfg in zip(labels, configs, strict=True)
    }
    write_tables(panels, options.output)
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


def write_tables(panels: Panels, figure: Path) -> None:
    """Write the two CSV files of a figure."""
    columns = ["network", "target", "role", "identity", "camera", "x", "y"]
    write_table(beside(figure), columns, _places(panels))
    columns = ["network", "target", "matches", "match_distance", "distance", "ratio"]
    write_table(beside(figure, "distances"), columns, _distances(panels))


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
