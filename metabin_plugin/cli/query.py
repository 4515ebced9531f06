"""``metabin query``: the gallery images of an index that are nearest to some images."""

from __future__ import annotations

import itertools
import math
import os
import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metabin_plugin.search.engine import on_gpu, search_index, set_probes
from metabin_plugin.search.faults import SearchError, check_output, load_faiss, write_csv
from metabin_plugin.search.features import Describer, find_queries, restored_config
from metabin_plugin.search.index_file import Gallery, check_network, read_gallery
from metabin_plugin.search.ranked_lists import GREEN, GREY, Tile, draw_sheet, save_sheet
from metabin_plugin.search.vectors import NpyVectors, comparable
from metabin_plugin.text import visible

COLUMNS = ("query", "rank", "path", "distance", "decision")
MATCH, TOO_FAR, NOBODY = "match", "too far", "nobody"


@dataclass(frozen=True)
class Queries:
    """What is asked for.

    Attributes:
        names: path of each image, or number of each row.
        features: float32 (Q, D), comparable by the index's metric.
        are_images: whether the names are paths of images.
    """

    names: Sequence[str]
    features: np.ndarray
    are_images: bool


@dataclass(frozen=True)
class Found:
    """A gallery entry near to a query.

    Attributes:
        name: path of its image from the gallery's folder on, or its identifier.
        path: of its image, or its identifier.
        distance: as evaluation has it.
        image: the path, "" if it is an identifier.
        decision: ``MATCH`` below the threshold, else ``TOO_FAR``, or ``NOBODY`` if no entry of the
            query is a match; "" without a threshold.
    """

    name: str
    path: str
    distance: float
    image: str
    decision: str


def run(options: Namespace) -> None:
    """Search, write and draw."""
    load_faiss()
    sheet = options.sheet or options.output.with_suffix(".png")
    for option, value in (("--top", options.top), ("--sheet-rows", options.sheet_rows)):
        if value < 1:
            raise SearchError(f"{option} is {value!r}; give at least 1")
    if options.threshold is not None and math.isnan(options.threshold):
        raise SearchError("--threshold is nan; give a distance, or inf for any")
    if sheet == options.output:
        raise SearchError(f"{sheet} would be table and contact sheet; give another --output")
    check_output(options.output, "--output")
    check_output(sheet, "--sheet")
    gallery = read_gallery(options.index)
    if options.probes is not None:
        set_probes(gallery.index, options.probes)
    queries = (
        _read_features(gallery, Path(options.queries[0]))
        if [Path(name).suffix for name in options.queries] == [".npy"]
        else _describe(gallery, find_queries(options.queries), options.opts)
    )
    index = on_gpu(gallery.index) if options.gpu else gallery.index
    nearest = search_index(index, queries.features, options.top, gallery.header.metric)
    folder = gallery.header.folder
    opens = bool(folder) and (bool(options.gallery_folder) or is_near(folder, options.index))
    threshold = gallery.header.threshold if options.threshold is None else options.threshold
    found = list(_found(gallery, options.gallery_folder, opens, threshold, *nearest))
    write_csv(options.output, COLUMNS, _rows(queries.names, found))
    print(f"Nearest {nearest[0].shape[1]} to {len(found)} queries: {options.output}")
    nobody = [
        threshold is not None and not any(entry.decision == MATCH for entry in entries)
        for entries in found
    ]
    if threshold is not None:
        _say_who_is_nobody(queries.names, found, nobody, threshold, options.sheet_rows)
    if folder and not opens:
        print(
            f"Gallery images are not drawn: {visible(folder)}, which the index names, is neither "
            "below the working directory nor beside the index; if it is yours, add "
            f"--gallery-folder {shlex.quote(visible(folder))}"
        )
    if queries.are_images or opens:
        shown = list(itertools.islice(_tiles(queries, found, nobody), options.sheet_rows))
        save_sheet(draw_sheet(shown), sheet)
        print(f"Contact sheet of {len(shown)}: {sheet}")


def _describe(gallery: Gallery, paths: Sequence[str], pairs: Sequence[str]) -> Queries:
    if not gallery.header.config:
        raise SearchError("the index was made of features, without a network; ask by a .npy file")
    describer = Describer(restored_config(gallery.header.config, pairs))
    check_network(gallery.header, describer.probe())
    features, _ = describer.describe(paths)
    return Queries(paths, comparable(features, gallery.header.metric), True)


def _read_features(gallery: Gallery, path: Path) -> Queries:
    vectors = NpyVectors([path])
    if vectors.shape[1] != gallery.index.d:
        raise SearchError(
            f"{path} has features of {vectors.shape[1]} values and the index of {gallery.index.d}; "
            "take those of the network that the index was made by"
        )
    features = comparable(np.concatenate(list(vectors.blocks())), gallery.header.metric)
    return Queries([str(number) for number in range(len(features))], features, False)


def is_near(folder: str, index: Path) -> bool:
    """Whether a folder that an index names is below the working directory or the index's folder.

    An index may come from anyone, and names no other files that are opened for it.
    """
    target = Path(folder).resolve()
    return any(target.is_relative_to(near.resolve()) for near in (Path(), index.parent))


def _found(
    gallery: Gallery,
    folder: str,
    opens: bool,
    threshold: float | None,
    distances: np.ndarray,
    rows: np.ndarray,
) -> Iterator[list[Found]]:
    for some, entries in zip(distances.tolist(), rows.tolist(), strict=True):
        near = [pair for pair in zip(entries, some, strict=True) if pair[0] >= 0]
        decisions = _decisions([distance for _, distance in near], threshold)
        paths = [gallery.path(row, folder) for row, _ in near]
        yield [
            Found(gallery.names[row], path, distance, path if opens else "", decision)
            for (row, distance), path, decision in zip(near, paths, decisions, strict=True)
        ]


def _decisions(distances: Sequence[float], threshold: float | None) -> list[str]:
    if threshold is None:
        return [""] * len(distances)
    matches = [distance < threshold for distance in distances]
    other = TOO_FAR if any(matches) else NOBODY
    return [MATCH if is_match else other for is_match in matches]


def _say_who_is_nobody(
    names: Sequence[str],
    found: Sequence[Sequence[Found]],
    nobody: Sequence[bool],
    threshold: float,
    most: int,
) -> None:
    for name, entries in itertools.islice(
        itertools.compress(zip(names, found, strict=True), nobody), most
    ):
        nearest = f"nearest at {entries[0].distance:.6f}" if entries else "nothing was found"
        print(f"{visible(name)}: {NOBODY} ({nearest})")
    if sum(nobody) > most:
        print(f"and {sum(nobody) - most} more")
    print(f"{sum(nobody)} of {len(found)} queries are {NOBODY} by the threshold {threshold:.6f}")


def _rows(names: Sequence[str], found: Sequence[Sequence[Found]]) -> Iterator[tuple[object, ...]]:
    for name, entries in zip(names, found, strict=True):
        for rank, entry in enumerate(entries, start=1):
            yield name, rank, entry.path, entry.distance, entry.decision


def _tiles(
    queries: Queries, found: Sequence[Sequence[Found]], nobody: Sequence[bool]
) -> Iterator[list[Tile]]:
    for name, entries, is_nobody in zip(queries.names, found, nobody, strict=True):
        said = f"query: {NOBODY}" if is_nobody else "query"
        yield [
            Tile(name if queries.are_images else "", (said, Path(name).name)),
            *(
                Tile(
                    entry.image,
                    (f"{rank}: {entry.distance:.3f}", *caption_lines(entry.name)),
                    GREEN if entry.decision == MATCH else GREY,
                )
                for rank, entry in enumerate(entries, start=1)
            ),
        ]


def caption_lines(name: str) -> list[str]:
    """The lines of a path: its folders, which often tell who it is, and its file."""
    folders, file = os.path.split(name)
    return [folders, file] if folders else [file]
