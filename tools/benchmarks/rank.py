"""CMC, mAP and mINP: the plugin's ranking beside fastreid's Python and Cython.

--size market: 3,368 x 15,913 distances, ready in memory. --size msmt17: 11,659 x 82,161 from
features; fastreid's functions would need the whole matrix (3.6 GiB) and its order (7.1 GiB).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cython_rank import build_cython, load_cython
from benchmarks.memory import measure_apart
from benchmarks.report import Arm, Report
from benchmarks.retrieval_data import SIZES, Labels, Size, draw_features
from benchmarks.timing import time_once, times_in_turns
from metabin_plugin.ranking import evaluate_features, evaluate_rank
from metabin_plugin.ranking.distances import distance_chunks

OURS, PYTHON, CYTHON = "metabin_plugin", "fastreid, Python", "fastreid, Cython"
MAX_RANK = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own arguments."""
    parser.add_argument("--size", choices=sorted(SIZES), default="market")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--dimension", type=int, help="length of a feature vector (market: 128, msmt17: 2048)"
    )


def run(args: argparse.Namespace) -> Report:
    """Measure."""
    size = SIZES[args.size]
    if args.size == "msmt17":
        return _from_features(size, args.dimension or 2048)
    return _from_distances(size, args.dimension or 128, args.repetitions)


def _from_distances(size: Size, dimension: int, repetitions: int) -> Report:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        notes = []
        fast = [OURS, CYTHON]
        if not build_cython(folder):
            fast.remove(CYTHON)
            notes.append(f"{CYTHON}: not built, for want of Cython, setuptools or a compiler.")
        inputs = _distances(size, dimension)
        arms = {arm: _call(arm, folder, *inputs) for arm in fast}
        seconds = times_in_turns(arms, repetitions)
        print(f"{PYTHON}: one run, of a minute or more", file=sys.stderr)
        seconds[PYTHON] = [time_once(_call(PYTHON, folder, *inputs))]
        _, alone = measure_apart(_distances_only, size, dimension)
        rows = [
            Arm(arm, seconds[arm], measure_apart(_run_once, arm, folder, size, dimension)[1])
            for arm in (*fast, PYTHON)
        ]
        precision = np.mean(arms[OURS]()[1])
    rows.append(Arm("(the distances alone)", (), alone))
    notes.append(f"mAP of the drawn data: {100 * precision:.1f} %.")
    title = f"Ranking of {size.queries:,} x {size.gallery:,} distances ({size.name})"
    return Report(title, rows, notes)


def _from_features(size: Size, dimension: int) -> Report:
    (seconds, precision), peak = measure_apart(_rank_features, size, dimension)
    title = f"Ranking of {size.queries:,} x {size.gallery:,} features, {dimension}-d ({size.name})"
    notes = [
        "The time includes that of the matrix product.",
        f"mAP of the drawn data: {100 * precision:.1f} %.",
    ]
    return Report(title, [Arm(OURS, [seconds], peak)], notes)


def _rank_features(size: Size, dimension: int) -> tuple[float, float]:
    queries, gallery, labels = draw_features(size, dimension)
    found: list[Any] = []
    seconds = time_once(lambda: found.extend(evaluate_features(queries, gallery, *labels)))
    return seconds, float(np.mean(found[1]))


def _distances(size: Size, dimension: int) -> tuple[np.ndarray, Labels]:
    queries, gallery, labels = draw_features(size, dimension)
    # Not by fastreid's build_dist, whose temporaries would be the peak of memory of every arm.
    (distances,) = distance_chunks(queries, gallery, "cosine")
    return distances.numpy(), labels


def _distances_only(size: Size, dimension: int) -> None:
    _distances(size, dimension)


def _run_once(arm: str, folder: Path, size: Size, dimension: int) -> None:
    _call(arm, folder, *_distances(size, dimension))()


def _call(arm: str, folder: Path, distances: np.ndarray, labels: Labels) -> Callable[[], Any]:
    functions = {OURS: lambda: evaluate_rank, PYTHON: _python, CYTHON: lambda: load_cython(folder)}
    function = functions[arm]()
    return lambda: function(distances, *labels, MAX_RANK)


def _python() -> Callable[..., Any]:
    from fastreid.evaluation.rank import eval_market1501

    return eval_market1501
