"""Draw the ranked galleries of a data set's queries, right matches framed green, wrong ones red.

python tools/visualize.py --config-file CONFIG --dataset NAME [--which worst] [--queries 6]
    [--output ranked.png] MODEL.WEIGHTS CHECKPOINT [KEY VALUE ...]

NAME is a registered data set or a manifest; of several splits it is the first. Beside ranked.png
it leaves ranked.csv. Gallery images of the query's identity by its camera are left out, as in
evaluation; TEST.AQE and TEST.RERANK are not applied.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metabin_plugin.cli.demo import numbers
from metabin_plugin.data.lookup import build_nonempty_dataset
from metabin_plugin.engine import read_config
from metabin_plugin.evaluation import Images
from metabin_plugin.search.faults import SearchError, check_output, write_csv
from metabin_plugin.search.features import Describer
from metabin_plugin.search.ranked_lists import Place, RankedLists, choose_queries, queries_of
from metabin_plugin.search.sheet import GREEN, RED, Tile, draw_sheet, save_sheet

COLUMNS = ("query", "identity", "average_precision", "rank", "path", "distance", "right")
Row = tuple[int, float, Sequence[Place]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Extract features, rank, draw and write."""
    args = parse(arguments)
    check_output(args.output, "--output")
    cfg = read_config(args.config_file, args.opts)
    dataset = build_nonempty_dataset(args.dataset, ["query", "gallery"], key="--dataset")
    items = [*dataset.query, *dataset.gallery]
    features, _ = Describer(cfg).describe([item[0] for item in items])
    labels = (np.array(column) for column in zip(*(item[1:3] for item in items), strict=True))
    images = Images(torch.from_numpy(features), *labels)
    query, gallery = (
        images.part(slice(len(dataset.query))),
        images.part(slice(len(dataset.query), None)),
    )
    lists = RankedLists(query, gallery, cfg.TEST.METRIC)
    precisions = lists.average_precisions()
    chosen = (
        queries_of(query.identities, args.ids)
        if args.ids
        else choose_queries(precisions, args.queries, args.which, args.seed)
    )
    rows = [(number, precisions[number], lists.list_of(number, args.top)) for number in chosen]
    write_csv(args.output.with_suffix(".csv"), COLUMNS, table(dataset, rows))
    save_sheet(draw_sheet([tiles(dataset, row) for row in rows]), args.output)
    print(f"Ranked galleries of {len(rows)} queries: {args.output}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SearchError: a number is too small, or the figure's name is of no figure.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--dataset", required=True, help="a name of DATASETS.TESTS")
    parser.add_argument("--queries", type=int, default=6, help="how many")
    parser.add_argument("--which", choices=("spread", "worst", "random"), default="spread")
    parser.add_argument("--seed", type=int, default=0, help="of --which random")
    parser.add_argument("--ids", type=numbers, help="identities instead, 3,17 for example")
    parser.add_argument("--top", type=int, default=10, help="gallery images for each query")
    parser.add_argument("--output", type=Path, default=Path("ranked.png"))
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    args = parser.parse_args(arguments)
    for name in ("queries", "top"):
        if getattr(args, name) < 1:
            raise SearchError(f"--{name} is {getattr(args, name)}; give at least 1")
    if args.output.suffix != ".png":
        raise SearchError(f"--output {args.output} is no path of a figure; give one ending in .png")
    return args


def table(dataset: Any, rows: Sequence[Row]) -> Iterator[tuple[object, ...]]:
    """Rows of the CSV file, one for each gallery image shown."""
    for number, precision, places in rows:
        path, identity = dataset.query[number][:2]
        for rank, place in enumerate(places, start=1):
            found = dataset.gallery[place.index][0]
            start = (path, identity, float(precision), rank)
            yield *start, found, place.distance, int(place.right)


def tiles(dataset: Any, row: Row) -> list[Tile]:
    """A row of the sheet: the query, then its list."""
    number, precision, places = row
    path, identity, camera = dataset.query[number][:3]
    found = "no match" if np.isnan(precision) else f"AP {100 * precision:.1f} %"
    query = Tile(path, (f"id {identity} cam {camera}", found))
    return [query, *(_found(dataset.gallery, place) for place in places)]


def _found(gallery: Sequence[Any], place: Place) -> Tile:
    path, identity, camera = gallery[place.index][:3]
    caption = (f"id {identity} cam {camera}", f"{place.distance:.3f}")
    return Tile(path, caption, GREEN if place.right else RED)
