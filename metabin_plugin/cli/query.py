"""``metabin query``: the gallery images of an index that are nearest to some images."""

from __future__ import annotations

import itertools
import json
import math
import os
import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metabin_plugin.errors import SearchError
from metabin_plugin.files import check_file, check_not_read, write_whole
from metabin_plugin.search.cameras import complete_cameras, standardize
from metabin_plugin.search.engine import load_faiss, on_gpu, search_index, set_probes
from metabin_plugin.search.features import Describer, find_queries, restored_config
from metabin_plugin.search.index_file import Gallery, check_network, read_gallery
from metabin_plugin.search.ranked_lists import GREEN, GREY, Tile, draw_sheet, save_sheet
from metabin_plugin.search.vectors import NpyVectors, comparable, mean_query
from metabin_plugin.text import csv_file, visible

COLUMNS = ("query", "rank", "path", "distance", "decision")
# Behind them, where the index is by camera.
OF_CAMERAS = ("query_camera", "camera")
MATCH, TOO_FAR, NOBODY = "match", "too far", "nobody"


@dataclass(frozen=True)
class Queries:
    """What is asked for.

    Attributes:
        names: path of each image, or number of each row; of several images of one person, what
            the command line names.
        features: float32 (Q, D), comparable by the index's metric.
        images: paths of the images of each query; none of ready features.
        cameras: those of the images, or rows, of each query; none where the index has none.
        spread: what is added to all distances, see ``mean_query``.
    """

    names: Sequence[str]
    features: np.ndarray
    images: Sequence[Sequence[str]]
    cameras: Sequence[Sequence[str]]
    spread: float = 0.0


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
        camera: which one took its image; "" where the index has none.
    """

    name: str
    path: str
    distance: float
    image: str
    decision: str
    camera: str


def run(options: Namespace) -> None:
    """Search, write and draw.

    Raises:
        SearchError: an option, the index or a query cannot be used.
    """
    load_faiss()
    check_file(options.output, "--output", SearchError)
    sheet = options.sheet or options.output.with_suffix(".png")
    for option, value in (("--top", options.top), ("--sheet-rows", options.sheet_rows)):
        if value < 1:
            raise SearchError(f"{option} is {value!r}; give at least 1")
    if options.threshold is not None and math.isnan(options.threshold):
        raise SearchError("--threshold is nan; give a distance, or inf for any")
    if options.sheet and sheet.suffix.lower() != ".png":
        raise SearchError(
            f"--sheet {sheet} is not the path of a contact sheet; give one ending in .png"
        )
    # An empty one is taken for CSV, too.
    if options.output.suffix.lower() not in ("", ".csv", ".json"):
        raise SearchError(
            f"--output {options.output} is not the path of a table; give one ending in .csv, or "
            "in .json for JSON"
        )
    check_file(sheet, "--sheet", SearchError)
    gallery = read_gallery(options.index)
    if gallery.cameras is None and options.camera:
        raise SearchError(f"--camera is given, but {options.index} is not by camera; leave it out")
    if options.probes is not None:
        set_probes(gallery.index, options.probes)
    ready = [Path(name).suffix for name in options.queries] == [".npy"]
    if ready and options.opts:
        raise SearchError("--opts are of a network, and features come without; leave them out")
    paths, cameras = ([], []) if ready else find_queries(options.queries)
    for option, path in (("--output", options.output), ("--sheet", sheet)):
        read = [options.index, *options.queries, *paths]
        read += _images_at(path, gallery, options.gallery_folder)
        check_not_read(path, option, read, SearchError)
    queries = (
        _read_features(gallery, Path(options.queries[0]), options.camera)
        if ready
        else _describe(gallery, options, paths, cameras)
    )
    if gallery.cameras is not None:
        gallery.cameras.make_comparable(gallery.index, gallery.header.metric)
    if options.one_person:
        mean, spread = mean_query(queries.features, gallery.header.metric)
        queries = Queries(
            [shlex.join(options.queries)],
            mean,
            _together(queries.images),
            _together(queries.cameras),
            spread,
        )
    index = on_gpu(gallery.index) if options.gpu else gallery.index
    distances, places = search_index(index, queries.features, options.top, gallery.header.metric)
    nearest = distances + queries.spread, places
    folder = gallery.header.folder
    opens = bool(folder) and (bool(options.gallery_folder) or is_near(folder, options.index))
    threshold = gallery.header.threshold if options.threshold is None else options.threshold
    found = list(_found(gallery, options.gallery_folder, opens, threshold, *nearest))
    if options.output.suffix.lower() == ".json":
        content = _as_json(options, gallery, queries, found, threshold)
    else:
        columns = COLUMNS if gallery.cameras is None else (*COLUMNS, *OF_CAMERAS)
        content = csv_file(columns, _rows(queries, found), ".6f")
    write_whole(options.output, lambda file: file.write(content), SearchError)
    print(f"Nearest {nearest[0].shape[1]} to {len(found)} queries: {options.output}")
    nobody = [
        threshold is not None and not any(entry.decision == MATCH for entry in entries)
        for entries in found
    ]
    if threshold is not None:
        _say_who_is_nobody(queries.names, found, nobody, threshold, options.sheet_rows)
        if options.threshold is None and gallery.cameras and (said := gallery.cameras.caution()):
            print(said)
    if folder and not opens:
        print(
            f"Gallery images are not drawn: {visible(folder)}, which the index names, is neither "
            "below the working directory nor beside the index; if it is yours, add "
            f"--gallery-folder {shlex.quote(visible(folder))}"
        )
    if queries.images or opens:
        tiles = _tiles(queries, found, nobody, threshold)
        drawn = list(itertools.islice(tiles, options.sheet_rows))
        save_sheet(draw_sheet(drawn, [_cut(entries) for entries in found[: len(drawn)]]), sheet)
        print(f"Contact sheet of {len(drawn)}: {sheet}")


def _images_at(path: Path, gallery: Gallery, folder: str) -> list[Path]:
    """The image of the gallery that a path is, if it is one."""
    if not gallery.header.folder or not path.exists():
        return []
    file, home = path.resolve(), Path(folder or gallery.header.folder).resolve()
    # Of millions of names none is looked at for a file in another folder.
    is_image = file.is_relative_to(home) and str(file.relative_to(home)) in gallery.names
    return [path] if is_image else []


def _describe(
    gallery: Gallery, options: Namespace, paths: Sequence[str], said: Sequence[str]
) -> Queries:
    if not gallery.header.config:
        raise SearchError(
            "the index was made of features, without a network; ask by one .npy file, alone"
        )
    cameras = _known_cameras(gallery, said, paths, options.camera)
    describer = Describer(restored_config(gallery.header.config, options.opts))
    check_network(gallery.header, describer.probe())
    features, _ = describer.describe(paths)
    rows = _comparable(gallery, features, cameras)
    return Queries(paths, rows, _alone(paths), _alone(cameras))


def _alone(of_images: Sequence[str]) -> list[list[str]]:
    """What is said of images, each of which is a query."""
    return [[one] for one in of_images]


def _together(of_queries: Sequence[Sequence[str]]) -> list[list[str]]:
    """What is said of queries that are one query."""
    return [list(itertools.chain.from_iterable(of_queries))] if of_queries else []


def _known_cameras(
    gallery: Gallery, cameras: Sequence[str], images: Sequence[str], given: str
) -> Sequence[str]:
    """The camera of each image; none where the index has none."""
    if gallery.cameras is None:
        return []
    cameras = complete_cameras(cameras, images, given)
    gallery.cameras.check_known(cameras, images)
    return cameras


def _comparable(gallery: Gallery, features: np.ndarray, cameras: Sequence[str]) -> np.ndarray:
    """Features as the index compares its own."""
    metric, own = gallery.header.metric, gallery.cameras
    if own is None:
        return comparable(features, metric)
    return comparable(standardize(features, cameras, own.statistics), metric, may_be_zero=True)


def _read_features(gallery: Gallery, path: Path, camera: str) -> Queries:
    vectors = NpyVectors([path])
    if vectors.shape[1] != gallery.index.d:
        raise SearchError(
            f"{path} has features of {vectors.shape[1]} values and the index of {gallery.index.d}; "
            "take those of the network that the index was made by"
        )
    features = np.concatenate(list(vectors.blocks()))
    names = [str(number) for number in range(len(features))]
    cameras = _known_cameras(gallery, [""] * len(names), names, camera)
    return Queries(names, _comparable(gallery, features, cameras), [], _alone(cameras))


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
    own = gallery.cameras
    called = [] if own is None else list(own.statistics)
    for some, entries in zip(distances.tolist(), rows.tolist(), strict=True):
        near = [pair for pair in zip(entries, some, strict=True) if pair[0] >= 0]
        decisions = _decisions([distance for _, distance in near], threshold)
        paths = [gallery.path(row, folder) for row, _ in near]
        cameras = ["" if own is None else called[own.places[row]] for row, _ in near]
        yield [
            Found(gallery.names[row], path, distance, path if opens else "", decision, camera)
            for (row, distance), path, decision, camera in zip(
                near, paths, decisions, cameras, strict=True
            )
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


def _rows(queries: Queries, found: Sequence[Sequence[Found]]) -> Iterator[tuple[object, ...]]:
    for place, (name, entries) in enumerate(zip(queries.names, found, strict=True)):
        cameras = ", ".join(dict.fromkeys(queries.cameras[place])) if queries.cameras else ""
        for rank, entry in enumerate(entries, start=1):
            of_cameras = (cameras, entry.camera) if queries.cameras else ()
            yield name, rank, entry.path, entry.distance, entry.decision, *of_cameras


def _as_json(
    options: Namespace,
    gallery: Gallery,
    queries: Queries,
    found: Sequence[Sequence[Found]],
    threshold: float | None,
) -> bytes:
    """The answers as JSON; of no threshold, and of an infinite one, which JSON lacks, null."""

    def of_query(place: int) -> dict[str, Any]:
        entries = [
            {
                "rank": rank,
                "path": entry.path,
                "distance": entry.distance,
                "decision": entry.decision or None,
                **({"camera": entry.camera} if queries.cameras else {}),
            }
            for rank, entry in enumerate(found[place], start=1)
        ]
        images = list(queries.images[place]) if queries.images else []
        cameras = {"cameras": queries.cameras[place]} if queries.cameras else {}
        return {"query": queries.names[place], "images": images, **cameras, "found": entries}

    content = {
        "index": str(options.index),
        "metric": gallery.header.metric,
        "threshold": threshold if threshold is not None and math.isfinite(threshold) else None,
        "queries": [of_query(place) for place in range(len(found))],
    }
    return json.dumps(content, indent=1, allow_nan=False).encode()


def _tiles(
    queries: Queries,
    found: Sequence[Sequence[Found]],
    nobody: Sequence[bool],
    threshold: float | None,
) -> Iterator[list[Tile]]:
    below = [] if threshold is None else [f"match: < {threshold:.3f}"]
    for place, (name, entries) in enumerate(zip(queries.names, found, strict=True)):
        images = queries.images[place] if queries.images else []
        said = f"query: {NOBODY}" if nobody[place] else "query"
        called = Path(name).name if len(images) < 2 else f"{len(images)} images"
        yield [
            Tile(images[0] if images else "", (said, called, *below)),
            *(
                Tile(
                    entry.image,
                    (f"{rank}: {entry.distance:.3f}", *caption_lines(entry.name)),
                    GREEN if entry.decision == MATCH else GREY,
                )
                for rank, entry in enumerate(entries, start=1)
            ),
        ]


def _cut(entries: Sequence[Found]) -> int | None:
    """The tile of a query's row in front of which the threshold is; None for behind all of them."""
    far = [entry.decision in (TOO_FAR, NOBODY) for entry in entries]
    return 1 + far.index(True) if any(far) else None


def caption_lines(name: str) -> list[str]:
    """The lines of a path: its folders, which often tell who it is, and its file."""
    folders, file = os.path.split(name)
    return [folders, file] if folders else [file]
