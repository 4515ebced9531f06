"""``metabin index``: a gallery as an index file; ``add``, ``remove`` and ``merge`` change such."""

from __future__ import annotations

import io
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, compress
from pathlib import Path

import numpy as np

from metabin_plugin.cli.outcome import sentence
from metabin_plugin.engine import read_config
from metabin_plugin.errors import DatasetError, SearchError
from metabin_plugin.files import check_file, check_not_read, open_regular, reason
from metabin_plugin.search.cameras import Cameras, complete_cameras
from metabin_plugin.search.engine import (
    KINDS,
    METRICS,
    Plan,
    add_vectors,
    append_index,
    build_index,
    check_gpu,
    load_faiss,
    plan_index,
    remove_rows,
)
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
    if options.by_camera and options.kind not in ("auto", "flat"):
        raise SearchError(
            f"--kind is {options.kind!r}, but what an index by camera compares changes with each "
            "image, and lists or codes would have to be learned anew; leave --kind or --by-camera "
            "out"
        )
    for option in ("lists", "probes", "bytes", "training"):
        value = getattr(options, option)
        if options.by_camera and value is not None:
            raise SearchError(
                f"--{option} is {value!r}, but an index by camera is flat, and has no use for it; "
                "leave it out"
            )
    if options.camera and not options.by_camera:
        raise SearchError("--camera is for an index by camera; leave it out, or add --by-camera")
    check_file(options.output, "--output", SearchError)
    given = options.features, options.ids, options.cameras, options.gallery, options.config_file
    check_not_read(options.output, "--output", filter(None, given), SearchError)
    if options.features:
        _index_features(options)
    else:
        _index_images(options)


def _index_features(options: Namespace) -> None:
    if options.opts or options.config_file or options.skip_unreadable:
        raise SearchError("--features come without a network; leave its options out, or --features")
    vectors = NpyVectors([options.features])
    count = vectors.shape[0]
    names = _read_each(options.ids, "--ids", count) if options.ids else _numbers(vectors)
    cameras = _cameras_of_features(options, options.by_camera, names)
    with stoppable(lambda: "nothing was written; the same command starts again"):
        _index(options, vectors, Header(options.metric or "cosine"), names, cameras)


def _cameras_of_features(options: Namespace, by_camera: bool, names: Names) -> list[str]:
    if not by_camera:
        if options.cameras:
            raise SearchError("--cameras are of an index by camera; leave them out, or make one")
        return []
    if options.cameras:
        lines = _read_each(options.cameras, "--cameras", len(names))
        # As in a manifest, spaces around a name are no part of it.
        return complete_cameras([line.strip() for line in lines], names, options.camera)
    if not options.camera:
        raise SearchError(
            "the index is by camera, and those of --features are not known; give --cameras, a text "
            "file with a line for each, or --camera, if one took all"
        )
    return [options.camera] * len(names)


def _index_images(options: Namespace) -> None:
    if options.ids or options.metric or options.cameras:
        raise SearchError(
            "--ids, --metric and --cameras belong to --features; images have paths, TEST.METRIC is "
            "a network's, and a manifest has cameras"
        )
    folder, found, cameras = find_gallery(options.gallery)
    if options.by_camera:
        if not cameras and not options.camera:
            raise SearchError(
                f"--gallery {shown(options.gallery)} does not say which camera took an image; give "
                "--camera, if one took all, a manifest, which `metabin manifest` makes, or leave "
                "--by-camera out"
            )
        cameras = complete_cameras(cameras or [""] * len(found), found, options.camera)
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
        readable = _complete(parts, describer, options.skip_unreadable)
        kept = Names.of(compress(names, readable))
        _index(options, parts.vectors(), header, kept, list(compress(cameras, readable)))
    parts.remove()


def _paths(folder: str, names: Names) -> Names:
    return Names.of(str(Path(folder, name)) for name in names)


def _advice(parts: Parts) -> str:
    kept = f"features of {parts.done:,} of {parts.total:,} images are in {parts.folder}"
    return f"{kept}; the same command goes on from there"


def _complete(parts: Parts, describer: Describer, skip_unreadable: bool) -> list[bool]:
    """Describe what is missing, and say of each image whether it can be read."""
    faults = parts.complete(lambda some: _describe(describer, some, skip_unreadable))
    _report(faults, skip_unreadable)
    return [not fault for fault in faults]


def _describe(
    describer: Describer, paths: Sequence[str], skip_unreadable: bool
) -> tuple[np.ndarray, list[str]]:
    try:
        return describer.describe(paths, skip_unreadable)
    except DatasetError as error:
        raise SearchError(
            f"{sentence(error)}; or leave all such images out by --skip-unreadable"
        ) from error


def _index(
    options: Namespace, vectors: Vectors, header: Header, names: Names, cameras: Sequence[str]
) -> None:
    plan = _plan(options, vectors.shape)
    kept = _kept(vectors, header, options.by_camera)
    index = build_index(kept, plan, header.metric, gpu=options.gpu)
    of_rows = Cameras.of(cameras, index) if options.by_camera else None
    _write(options.output, Gallery(replace(header, plan=str(plan)), names, index, of_rows))


def _kept(vectors: Vectors, header: Header, by_camera: bool) -> Comparable:
    """Vectors as an index keeps them: by camera they are not normalized before they are asked."""
    return Comparable(vectors, "euclidean" if by_camera else header.metric)


def _write(path: Path, gallery: Gallery) -> None:
    write_gallery(path, gallery)
    layout, size = Layout.of(gallery.index), path.stat().st_size / 1e6
    count, plan = layout.count, gallery.header.plan
    print(f"{path}: {count:,} vectors of {layout.dimension}, {plan}, {size:,.1f} MB")
    if gallery.cameras is not None:
        print(f"By camera: {gallery.cameras}")
        if caution := gallery.cameras.caution():
            print(caution)


def _add(options: Namespace) -> None:
    gallery = read_gallery(options.index)
    if gallery.cameras is None and options.camera:
        raise SearchError("--camera is for an index by camera; leave it out, or make one")
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
    given = options.ids
    names = _read_each(given, "--ids", count) if given else _numbers(vectors, gallery.names)
    cameras = _cameras_of_features(options, gallery.cameras is not None, names)
    with stoppable(lambda: f"{options.index} is as it was; the same command starts again"):
        _extend(options.index, gallery, vectors, names, cameras)


def _add_images(options: Namespace, gallery: Gallery) -> None:
    if options.ids or options.cameras:
        raise SearchError(
            "--ids and --cameras belong to --features; images have paths, and a manifest or "
            "--camera says which camera took them"
        )
    if not gallery.header.config:
        raise SearchError("the index was made of features, without a network; add --features")
    cfg = restored_config(gallery.header.config, options.opts)
    describer = Describer(cfg)
    check_network(gallery.header, describer.probe())
    folder, found, cameras = find_gallery(options.gallery)
    if gallery.cameras is not None:
        cameras = complete_cameras(cameras or [""] * len(found), found, options.camera)
    gallery, names = _in_one_folder(gallery, folder, found)
    # Also what an add wrote that was killed before it said so.
    there = set(names).intersection(gallery.names)
    is_new = [name not in there for name in names]
    names, cameras = Names.of(compress(names, is_new)), list(compress(cameras, is_new))
    if there:
        print(f"{len(there):,} images are in the index already; `remove` them first to renew them")
    parts = Parts(options.index, _paths(gallery.header.folder, names), feature_source(cfg))
    if len(names):
        with stoppable(lambda: _advice(parts)):
            readable = _complete(parts, describer, options.skip_unreadable)
            kept = Names.of(compress(names, readable)), list(compress(cameras, readable))
            _extend(options.index, gallery, parts.vectors(), *kept)
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
        former, folder = _by_one_name(former, folder)
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
    own = below(former, gallery.names)
    return replace(gallery, header=header, names=own), below(folder, names)


def _by_one_name(former: str, folder: str) -> tuple[str, str]:
    """Two folders, one of them by another path if links would make two places of one.

    Images that are named through a link would be in an index twice.
    """
    real = os.path.realpath(former), os.path.realpath(folder)
    seen = os.path.normpath(os.path.join(former, os.path.relpath(real[1], real[0])))
    return (former, seen) if os.path.realpath(seen) == real[1] else real


def _extend(
    path: Path, gallery: Gallery, vectors: Vectors, names: Names, cameras: Sequence[str]
) -> None:
    add_vectors(gallery.index, _kept(vectors, gallery.header, gallery.cameras is not None))
    gallery = _with_more(gallery, names, cameras)
    _write(path, gallery)
    _recommend(gallery)


def _with_more(gallery: Gallery, names: Iterable[str], cameras: Iterable[str]) -> Gallery:
    """A gallery with names and cameras of the rows behind its own that its index has already."""
    own = gallery.cameras
    if own is not None:
        own = Cameras.of(chain(own, cameras), gallery.index, own.calibrated)
    return replace(gallery, names=Names.of(chain(gallery.names, names)), cameras=own)


def _recommend(gallery: Gallery) -> None:
    if gallery.cameras is not None:
        return
    layout = Layout.of(gallery.index)
    wanted = plan_index(layout.count, layout.dimension).kind
    if KINDS.index(wanted) > KINDS.index(layout.kind):
        print(f"Of so many vectors `index` would make {wanted}, which answers faster than this one")


def _remove(options: Namespace) -> None:
    listed = _read_lines(options.list, "--list") if options.list else ()
    given = [*options.images, *filter(None, listed)]
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
    # An empty path, which has no way from anywhere, is what an unset variable of a shell gives.
    paths = [_way(path, folder) if folder and path else path for path in given]
    real = [_through_links(path, folder) if folder and path else path for path in given]
    meant: dict[str, list[int]] = {name: [] for name in (*given, *paths, *real)}
    for row, name in enumerate(gallery.names):
        if name in meant:
            meant[name].append(row)
    # A name can also be the path from here of another image, which is what a shell completes.
    found = [
        next(filter(None, map(meant.__getitem__, ways)), [])
        for ways in zip(paths, real, given, strict=True)
    ]
    for name, rows in zip(given, found, strict=True):
        if not rows:
            raise SearchError(f"{index} has no {shown(name)!r}; correct it, or leave it out")
    return np.unique(np.array([row for rows in found for row in rows], np.int64))


def _way(path: str, folder: str) -> str:
    """The way from a folder to a path."""
    try:
        return os.path.relpath(path, folder)
    # On Windows there is none to another drive.
    except ValueError:
        return path


def _through_links(path: str, folder: str) -> str:
    """The way from a folder to an image, which may itself be a link, whatever they are called."""
    place, name = os.path.split(path)
    way = _way(os.path.realpath(place), os.path.realpath(folder))
    return os.path.normpath(os.path.join(way, name))


def _without(gallery: Gallery, rows: np.ndarray) -> Gallery:
    """A gallery without some rows; its index is changed in place."""
    stays = np.ones(gallery.index.ntotal, bool)
    stays[rows] = False
    remove_rows(gallery.index, rows)
    own = gallery.cameras
    if own is not None:
        own = Cameras.of(compress(own, stays), gallery.index, own.calibrated)
    return replace(gallery, names=Names.of(compress(gallery.names, stays)), cameras=own)


def _merge(options: Namespace) -> None:
    check_file(options.output, "--output", SearchError)
    gallery = read_gallery(options.index)
    for path in options.others:
        gallery = _merged(gallery, read_gallery(path), options.index, path)
    _write(options.output, gallery)
    _recommend(gallery)


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
    return _with_more(gallery, names, more.cameras or ())


def _in_words(gallery: Gallery) -> str:
    maker = "of a network" if gallery.header.config else "given ready"
    how = gallery.header.metric + (", by camera" if gallery.cameras is not None else "")
    return f"features {maker}, of {gallery.index.d} values, {how}"


def _plan(options: Namespace, shape: tuple[int, int]) -> Plan:
    return plan_index(
        *shape,
        "flat" if options.by_camera else options.kind,
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


def _read_each(path: Path, option: str, count: int) -> Names:
    lines = _read_lines(path, option)
    if len(lines) != count:
        raise SearchError(
            f"{option} {path} has {len(lines)} lines for {count} features; give one each"
        )
    return lines


def _read_lines(path: Path, option: str) -> Names:
    try:
        # Some editors begin a file with a mark, which is no part of its first line.
        with open_regular(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as lines:
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
