"""``metabin index``: a gallery as an index file; ``add``, ``remove`` and ``merge`` change such."""

from __future__ import annotations

import io
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from metabin_plugin.cli.outcome import sentence
from metabin_plugin.engine import read_config
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import open_regular, reason
from metabin_plugin.search.engine import (
    KINDS,
    METRICS,
    Plan,
    add_vectors,
    append_index,
    build_index,
    check_gpu,
    plan_index,
    remove_rows,
)
from metabin_plugin.search.faults import SearchError, check_output, load_faiss
from metabin_plugin.search.features import (
    Describer,
    feature_source,
    find_gallery,
    kept_config,
    restored_config,
)
from metabin_plugin.search.index_file import (
    Gallery,
    Header,
    Layout,
    Names,
    check_network,
    read_gallery,
    write_gallery,
)
from metabin_plugin.search.vectors import Comparable, NpyVectors, Parts, Vectors, stoppable
from metabin_plugin.text import shown


def run(options: Namespace) -> None:
    """Make an index, or change one."""
    load_faiss()
    changes = {"add": _add, "remove": _remove, "merge": _merge}
    changes.get(options.command, _make)(options)


def _make(options: Namespace) -> None:
    if options.gpu:
        check_gpu()
    check_output(options.output, "--output")
    if options.features:
        _index_features(options)
    else:
        _index_images(options)


def _index_features(options: Namespace) -> None:
    if options.opts or options.config_file or options.skip_unreadable:
        raise SearchError("--features come without a network; leave its options out, or --features")
    vectors = NpyVectors([options.features])
    names = _read_ids(options.ids, vectors.shape[0]) if options.ids else _numbers(vectors)
    with stoppable(lambda: "nothing was written; the same command starts again"):
        _index(options, vectors, Header(options.metric or "cosine"), names)


def _index_images(options: Namespace) -> None:
    if options.ids or options.metric:
        raise SearchError("--ids and --metric belong to --features; TEST.METRIC is a network's")
    folder, found = find_gallery(options.gallery)
    names = Names.of(found)
    del found
    cfg = read_config(options.config_file, options.opts)
    if cfg.TEST.METRIC not in METRICS:
        raise SearchError(f"TEST.METRIC is {cfg.TEST.METRIC!r}; choose one of {', '.join(METRICS)}")
    describer = Describer(cfg)
    probe = describer.probe()
    # Before hours of work, not after them.
    _plan(options, (len(names), len(probe)))
    header = Header(cfg.TEST.METRIC, "", folder, kept_config(cfg), probe.tolist())
    parts = Parts(options.output, _paths(folder, names), feature_source(cfg))
    with stoppable(lambda: _advice(parts)):
        kept = _complete(parts, describer, names, options.skip_unreadable)
        _index(options, parts.vectors(), header, kept)
    parts.remove()


def _paths(folder: str, names: Names) -> Names:
    return Names.of(str(Path(folder, name)) for name in names)


def _advice(parts: Parts) -> str:
    kept = f"features of {parts.done:,} of {parts.total:,} images are in {parts.folder}"
    return f"{kept}; the same command goes on from there"


def _complete(parts: Parts, describer: Describer, names: Names, skip_unreadable: bool) -> Names:
    """Describe what is missing, and give the names of the readable images."""
    faults = parts.complete(lambda some: _describe(describer, some, skip_unreadable))
    _report(faults, skip_unreadable)
    return Names.of(name for name, fault in zip(names, faults, strict=True) if not fault)


def _describe(
    describer: Describer, paths: Sequence[str], skip_unreadable: bool
) -> tuple[np.ndarray, list[str]]:
    try:
        return describer.describe(paths, skip_unreadable)
    except DatasetError as error:
        raise SearchError(
            f"{sentence(error)}; or leave all such images out by --skip-unreadable"
        ) from error


def _index(options: Namespace, vectors: Vectors, header: Header, names: Names) -> None:
    plan = _plan(options, vectors.shape)
    index = build_index(Comparable(vectors, header.metric), plan, header.metric, gpu=options.gpu)
    _write(options.output, Gallery(replace(header, plan=str(plan)), names, index))


def _write(path: Path, gallery: Gallery) -> None:
    write_gallery(path, gallery)
    layout, size = Layout.of(gallery.index), path.stat().st_size / 1e6
    count, plan = layout.count, gallery.header.plan
    print(f"{path}: {count:,} vectors of {layout.dimension}, {plan}, {size:,.1f} MB")


def _add(options: Namespace) -> None:
    gallery = read_gallery(options.index)
    if options.features:
        _add_features(options, gallery)
    else:
        _add_images(options, gallery)


def _add_features(options: Namespace, gallery: Gallery) -> None:
    if options.skip_unreadable or options.opts:
        raise SearchError("--features come without a network; leave its options out, or --features")
    if gallery.header.config:
        raise SearchError("the index has a network of its own; add --gallery, its images")
    vectors = NpyVectors([options.features])
    if vectors.shape[1] != gallery.index.d:
        raise SearchError(
            f"{options.features} has features of {vectors.shape[1]} values and the index of "
            f"{gallery.index.d}; take those of the same network"
        )
    count = vectors.shape[0]
    names = _read_ids(options.ids, count) if options.ids else _numbers(vectors, gallery.names)
    with stoppable(lambda: f"{options.index} is as it was; the same command starts again"):
        _extend(options.index, gallery, vectors, names)


def _add_images(options: Namespace, gallery: Gallery) -> None:
    if options.ids:
        raise SearchError("--ids belong to --features; images have their paths")
    if not gallery.header.config:
        raise SearchError("the index was made of features, without a network; add --features")
    cfg = restored_config(gallery.header.config, options.opts)
    describer = Describer(cfg)
    check_network(gallery.header, describer.probe())
    folder, found = find_gallery(options.gallery)
    gallery, names = _in_one_folder(gallery, folder, found)
    # Also what an add wrote that was killed before it said so.
    there = set(names).intersection(gallery.names)
    names = Names.of(name for name in names if name not in there)
    if there:
        print(f"{len(there):,} images are in the index already; `remove` them first to renew them")
    parts = Parts(options.index, _paths(gallery.header.folder, names), feature_source(cfg))
    if len(names):
        with stoppable(lambda: _advice(parts)):
            kept = _complete(parts, describer, names, options.skip_unreadable)
            _extend(options.index, gallery, parts.vectors(), kept)
    parts.remove()


def _in_one_folder(
    gallery: Gallery, folder: str, names: Sequence[str]
) -> tuple[Gallery, Sequence[str]]:
    """A gallery and the names of more images, both from the folder on that has all of them.

    Raises:
        SearchError: there is no such folder.
    """
    former = gallery.header.folder
    try:
        common = os.path.commonpath([former, folder])
    except ValueError:
        raise SearchError(
            f"the images of the index are in {shown(former)!r} and these in {shown(folder)!r}, "
            "which no folder has both of; index them apart"
        ) from None

    def below(folder: str, names: Sequence[str]) -> Sequence[str]:
        way = os.path.relpath(folder, common)
        return names if way == os.curdir else Names.of(os.path.join(way, name) for name in names)

    header = replace(gallery.header, folder=common)
    return Gallery(header, below(former, gallery.names), gallery.index), below(folder, names)


def _extend(path: Path, gallery: Gallery, vectors: Vectors, names: Names) -> None:
    add_vectors(gallery.index, Comparable(vectors, gallery.header.metric))
    _write(path, replace(gallery, names=Names.of(chain(gallery.names, names))))
    _recommend(gallery.index)


def _recommend(index: Any) -> None:
    layout = Layout.of(index)
    wanted = plan_index(layout.count, layout.dimension).kind
    if KINDS.index(wanted) > KINDS.index(layout.kind):
        print(f"Of so many vectors `index` would make {wanted}, which answers faster than this one")


def _remove(options: Namespace) -> None:
    given = [*options.images, *(_read_lines(options.list, "--list") if options.list else ())]
    if not given:
        raise SearchError("nothing is named to be removed; give paths of images, or --list")
    gallery = read_gallery(options.index)
    rows = _rows_of(gallery, given, options.index)
    if len(rows) == gallery.index.ntotal:
        raise SearchError(f"{options.index} would be left without an entry; delete the file")
    _write(options.index, _without(gallery, rows))


def _rows_of(gallery: Gallery, given: Sequence[str], index: Path) -> np.ndarray:
    """Numbers of the rows that are meant by paths of their images, or by their names.

    Raises:
        SearchError: a path or name is of none.
    """
    folder = gallery.header.folder
    paths = [os.path.relpath(path, folder) if folder else path for path in given]
    meant: dict[str, list[int]] = {name: [] for name in (*given, *paths)}
    for row, name in enumerate(gallery.names):
        if name in meant:
            meant[name].append(row)
    # A name can also be the path from here of another image, which is what a shell completes.
    found = [meant[path] or meant[name] for path, name in zip(paths, given, strict=True)]
    for name, rows in zip(given, found, strict=True):
        if not rows:
            raise SearchError(f"{index} has no {shown(name)!r}; correct it, or leave it out")
    return np.unique(np.array([row for rows in found for row in rows], np.int64))


def _without(gallery: Gallery, rows: np.ndarray) -> Gallery:
    """A gallery without some rows; its index is changed in place."""
    remove_rows(gallery.index, rows)
    gone = set(rows.tolist())
    names = (name for row, name in enumerate(gallery.names) if row not in gone)
    return replace(gallery, names=Names.of(names))


def _merge(options: Namespace) -> None:
    check_output(options.output, "--output")
    gallery = read_gallery(options.index)
    for path in options.others:
        gallery = _merged(gallery, read_gallery(path), options.index, path)
    _write(options.output, gallery)
    _recommend(gallery.index)


def _merged(gallery: Gallery, more: Gallery, index: Path, other: Path) -> Gallery:
    """A gallery with the entries of another one behind its own; both indexes are changed."""
    one, two = _in_words(gallery), _in_words(more)
    if one != two:
        raise SearchError(f"{index} has {one}, and {other} {two}; merge indexes of one network")
    try:
        check_network(gallery.header, np.array(more.header.probe))
    except SearchError as error:
        raise SearchError(f"{other} does not fit {index}: {error}") from error
    if more.header.threshold not in (None, gallery.header.threshold):
        print(f"The threshold of {other} is left out; `metabin threshold` finds one for all")
    names = more.names
    if gallery.header.folder or more.header.folder:
        gallery, names = _in_one_folder(gallery, more.header.folder, names)
        there = set(names).intersection(gallery.names)
        twice = [row for row, name in enumerate(names) if name in there]
        if twice:
            print(f"{len(twice):,} images of {other} are in the index already")
            more = _without(replace(more, names=names), np.array(twice, np.int64))
            names = more.names
    append_index(gallery.index, more.index)
    return replace(gallery, names=Names.of(chain(gallery.names, names)))


def _in_words(gallery: Gallery) -> str:
    maker = "of a network" if gallery.header.config else "given ready"
    return f"features {maker}, of {gallery.index.d} values, {gallery.header.metric}"


def _plan(options: Namespace, shape: tuple[int, int]) -> Plan:
    return plan_index(
        *shape,
        options.kind,
        lists=options.lists,
        probes=options.probes,
        code_bytes=options.bytes,
        training=options.training,
    )


def _numbers(vectors: Vectors, names: Iterable[str] = ()) -> Names:
    """Numbers as names of vectors, from behind the largest that is one already."""
    used = (int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 19)
    first = max(used, default=-1) + 1
    return Names.of(map(str, range(first, first + vectors.shape[0])))


def _read_ids(path: Path, count: int) -> Names:
    ids = _read_lines(path, "--ids")
    if len(ids) != count:
        raise SearchError(f"--ids {path} has {len(ids)} lines for {count} features; give one each")
    return ids


def _read_lines(path: Path, option: str) -> Names:
    try:
        with open_regular(path) as file, io.TextIOWrapper(file, encoding="utf-8") as lines:
            return Names.of(line.rstrip("\n") for line in lines)
    except (OSError, UnicodeDecodeError) as error:
        raise SearchError(
            f"{option} {path} cannot be read ({reason(error)}); correct it"
        ) from error


def _report(faults: Sequence[str], skip_unreadable: bool) -> None:
    for fault in filter(None, faults):
        if not skip_unreadable:
            # It was skipped before a stop, after which the option was left out.
            raise DatasetError(fault)
        print(f"left out: {shown(fault)}", file=sys.stderr)
