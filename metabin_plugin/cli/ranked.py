"""``metabin ranked``: the ranked galleries of a data set's queries, as a figure and a table."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from metabin_plugin.data.build import build_nonempty_dataset
from metabin_plugin.engine import read_config
from metabin_plugin.errors import SearchError
from metabin_plugin.evaluation import Images
from metabin_plugin.files import check_file, check_not_read, check_table, write_whole
from metabin_plugin.search.features import Describer
from metabin_plugin.search.ranked_lists import (
    GREEN,
    RED,
    RankedImage,
    RankedLists,
    Tile,
    choose_queries,
    draw_sheet,
    queries_of,
    save_sheet,
)
from metabin_plugin.text import csv_file

COLUMNS = ("query", "identity", "average_precision", "rank", "path", "distance", "right")
Row = tuple[int, float, Sequence[RankedImage]]


def run(options: Namespace) -> None:
    """Extract features, rank, draw and write.

    Raises:
        SearchError: a number is too small, or the figure's name is of no figure.
    """
    for name in ("queries", "top"):
        if getattr(options, name) < 1:
            raise SearchError(f"--{name} is {getattr(options, name)!r}; give at least 1")
    if options.output.suffix != ".png":
        raise SearchError(
            f"--output {options.output} is not the path of a figure; give one ending in .png"
        )
    check_file(options.output, "--output", SearchError)
    numbers = options.output.with_suffix(".csv")
    check_table(numbers, COLUMNS, f"--output {options.output}", SearchError)
    cfg = read_config(options.config_file, options.opts)
    dataset = build_nonempty_dataset(options.dataset, ["query", "gallery"], key="--dataset")
    items = [*dataset.query, *dataset.gallery]
    check_not_read(options.output, "--output", (item[0] for item in items), SearchError)
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
        queries_of(query.identities, options.ids)
        if options.ids
        else choose_queries(precisions, options.queries, options.which, options.seed)
    )
    rows = [(number, precisions[number], lists.list_of(number, options.top)) for number in chosen]
    content = csv_file(COLUMNS, table(dataset, rows), ".6f")
    write_whole(numbers, lambda file: file.write(content), SearchError)
    save_sheet(draw_sheet([tiles(dataset, row) for row in rows]), options.output)
    print(f"Ranked galleries of {len(rows)} queries: {options.output}")


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


def _found(gallery: Sequence[Any], place: RankedImage) -> Tile:
    path, identity, camera = gallery[place.index][:3]
    caption = (f"id {identity} cam {camera}", f"{place.distance:.3f}")
    return Tile(path, caption, GREEN if place.right else RED)
