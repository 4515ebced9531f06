"""``metabin index``: a gallery as an index file."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from metabin_plugin.cli.outcome import sentence
from metabin_plugin.engine import read_config
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import open_regular, reason
from metabin_plugin.search.engine import METRICS, Plan, build_index, check_gpu, plan_index
from metabin_plugin.search.faults import SearchError, check_output, load_faiss
from metabin_plugin.search.features import Describer, feature_source, find_gallery, kept_config
from metabin_plugin.search.index_file import Gallery, Header, write_gallery
from metabin_plugin.search.vectors import Comparable, NpyVectors, Parts, Vectors, stoppable
from metabin_plugin.text import shown


def run(options: Namespace) -> None:
    """Describe, index and write."""
    load_faiss()
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
    count = vectors.shape[0]
    names = _read_ids(options.ids, count) if options.ids else list(map(str, range(count)))
    with stoppable(lambda: "nothing was written; the same command starts again"):
        _index(options, vectors, Header(options.metric or "cosine"), names)


def _index_images(options: Namespace) -> None:
    if options.ids or options.metric:
        raise SearchError("--ids and --metric belong to --features; TEST.METRIC is a network's")
    folder, names = find_gallery(options.gallery)
    cfg = read_config(options.config_file, options.opts)
    if cfg.TEST.METRIC not in METRICS:
        raise SearchError(f"TEST.METRIC is {cfg.TEST.METRIC!r}; choose one of {', '.join(METRICS)}")
    describer = Describer(cfg)
    probe = describer.probe()
    # Before hours of work, not after them.
    _plan(options, (len(names), len(probe)))
    header = Header(cfg.TEST.METRIC, "", folder, kept_config(cfg), probe.tolist())
    paths = [str(Path(folder, name)) for name in names]
    parts = Parts(options.output, paths, feature_source(cfg))

    def advice() -> str:
        kept = f"features of {parts.done:,} of {parts.total:,} images are in {parts.folder}"
        return f"{kept}; the same command goes on from there"

    with stoppable(advice):
        faults = parts.complete(lambda some: _describe(describer, some, options.skip_unreadable))
        _report(faults, options.skip_unreadable)
        kept = [name for name, fault in zip(names, faults, strict=True) if not fault]
        _index(options, parts.vectors(), header, kept)
    parts.remove()


def _describe(
    describer: Describer, paths: Sequence[str], skip_unreadable: bool
) -> tuple[np.ndarray, list[str]]:
    try:
        return describer.describe(paths, skip_unreadable)
    except DatasetError as error:
        raise SearchError(
            f"{sentence(error)}; or leave all such images out by --skip-unreadable"
        ) from error


def _index(options: Namespace, vectors: Vectors, header: Header, names: Sequence[str]) -> None:
    plan = _plan(options, vectors.shape)
    index = build_index(Comparable(vectors, header.metric), plan, header.metric, gpu=options.gpu)
    write_gallery(options.output, Gallery(replace(header, plan=str(plan)), names, index))
    count, dimension = vectors.shape
    size = options.output.stat().st_size / 1e6
    print(f"{options.output}: {count:,} vectors of {dimension}, {plan}, {size:,.1f} MB")


def _plan(options: Namespace, shape: tuple[int, int]) -> Plan:
    return plan_index(
        *shape,
        options.kind,
        lists=options.lists,
        probes=options.probes,
        code_bytes=options.bytes,
        training=options.training,
    )


def _read_ids(path: Path, count: int) -> list[str]:
    try:
        with open_regular(path) as file:
            ids = file.read().decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SearchError(f"--ids {path} cannot be read ({reason(error)}); correct it") from error
    if len(ids) != count:
        raise SearchError(f"--ids {path} has {len(ids)} lines for {count} features; give one each")
    return ids


def _report(faults: Sequence[str], skip_unreadable: bool) -> None:
    for fault in filter(None, faults):
        if not skip_unreadable:
            # It was skipped before a stop, after which the option was left out.
            raise DatasetError(fault)
        print(f"left out: {shown(fault)}", file=sys.stderr)
