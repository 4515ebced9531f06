"""Index a gallery: a folder of images, a manifest, a registered data set, or ready features.

An index is flat up to 200,000 images, "ivf" up to 2,000,000, "ivf-pq" above: see retrieval/plan.py
for the rule. The features of a gallery are kept in OUTPUT.parts until the index is written, and
the same command goes on from there after a stop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from metabin_plugin.cli.outcome import sentence
from metabin_plugin.engine import read_config
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import open_regular, reason
from metabin_plugin.search.engine import KINDS, METRICS, Plan, build_index, check_gpu, plan_index
from metabin_plugin.search.faults import SearchError, check_output, load_faiss
from metabin_plugin.search.features import Describer, feature_source, find_gallery, kept_config
from metabin_plugin.search.index_file import Gallery, Header, write_gallery
from metabin_plugin.search.vectors import Comparable, NpyVectors, Parts, Vectors, stoppable
from metabin_plugin.text import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gallery", help="folder of images, manifest (.csv) or data set")
    source.add_argument("--features", type=Path, help=".npy file, one row for each image")
    parser.add_argument("--ids", type=Path, help="text file with a line for each of --features")
    parser.add_argument("--metric", choices=METRICS, help="of --features (cosine)")
    parser.add_argument("--config-file", default="", help="the config of the training")
    parser.add_argument("--output", type=Path, required=True, help="the index file to write")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave such images out")
    parser.add_argument("--kind", choices=("auto", *KINDS), default="auto")
    parser.add_argument("--lists", type=int, help="inverted lists")
    parser.add_argument("--probes", type=int, help="lists that a query is compared with")
    parser.add_argument("--bytes", type=int, help="size of a vector's code in ivf-pq")
    parser.add_argument("--training", type=int, help="vectors to learn lists and codes from")
    parser.add_argument("--gpu", action="store_true", help="use Faiss's GPUs")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")


def run(args: argparse.Namespace) -> None:
    """Describe, index and write."""
    load_faiss()
    if args.gpu:
        check_gpu()
    check_output(args.output, "--output")
    if args.features:
        _index_features(args)
    else:
        _index_images(args)


def _index_features(args: argparse.Namespace) -> None:
    if args.opts or args.config_file or args.skip_unreadable:
        raise SearchError("--features come without a network; leave its options out, or --features")
    vectors = NpyVectors([args.features])
    count = vectors.shape[0]
    names = _read_ids(args.ids, count) if args.ids else list(map(str, range(count)))
    with stoppable(lambda: "nothing was written; the same command starts again"):
        _index(args, vectors, Header(args.metric or "cosine"), names)


def _index_images(args: argparse.Namespace) -> None:
    if args.ids or args.metric:
        raise SearchError("--ids and --metric belong to --features; TEST.METRIC is a network's")
    folder, names = find_gallery(args.gallery)
    cfg = read_config(args.config_file, args.opts)
    if cfg.TEST.METRIC not in METRICS:
        raise SearchError(f"TEST.METRIC is {cfg.TEST.METRIC}; choose one of {', '.join(METRICS)}")
    describer = Describer(cfg)
    probe = describer.probe()
    # Before hours of work, not after them.
    _plan(args, (len(names), len(probe)))
    header = Header(cfg.TEST.METRIC, "", folder, kept_config(cfg), probe.tolist())
    paths = [str(Path(folder, name)) for name in names]
    parts = Parts(args.output, paths, feature_source(cfg))

    def advice() -> str:
        kept = f"features of {parts.done:,} of {parts.total:,} images are in {parts.folder}"
        return f"{kept}; the same command goes on from there"

    with stoppable(advice):
        faults = parts.complete(lambda some: _describe(describer, some, args.skip_unreadable))
        _report(faults, args.skip_unreadable)
        kept = [name for name, fault in zip(names, faults, strict=True) if not fault]
        _index(args, parts.vectors(), header, kept)
    parts.remove()


def _describe(
    describer: Describer, paths: Sequence[str], skip_unreadable: bool
) -> tuple[np.ndarray, list[str]]:
    try:
        return describer.describe(paths, skip_unreadable)
    except DatasetError as error:
        fault = sentence(error).rstrip(".")
        raise SearchError(f"{fault}, or leave all such images out by --skip-unreadable") from error


def _index(
    args: argparse.Namespace, vectors: Vectors, header: Header, names: Sequence[str]
) -> None:
    plan = _plan(args, vectors.shape)
    index = build_index(Comparable(vectors, header.metric), plan, header.metric, gpu=args.gpu)
    write_gallery(args.output, Gallery(replace(header, plan=str(plan)), names, index))
    count, dimension = vectors.shape
    size = args.output.stat().st_size / 1e6
    print(f"{args.output}: {count:,} vectors of {dimension}, {plan}, {size:,.1f} MB")


def _plan(args: argparse.Namespace, shape: tuple[int, int]) -> Plan:
    return plan_index(
        *shape,
        args.kind,
        lists=args.lists,
        probes=args.probes,
        code_bytes=args.bytes,
        training=args.training,
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
