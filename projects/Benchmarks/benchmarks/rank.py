"""CMC, mAP and mINP: the plugin's ranking beside fastreid's Python and Cython.

--size market: 3,368 x 15,913 distances, ready in memory. --size msmt17: 11,659 x 82,161 from
features; fastreid's functions would need the whole matrix (3.6 GiB) and its order (7.1 GiB).
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.measuring import measure_apart, time_once, times_in_turns
from benchmarks.report import Arm, Report
from metabin_plugin.ranking import distance_chunks, evaluate_features, evaluate_rank

_MODULE = "rank_cy"
# fastreid's own setup.py needs distutils, which Python 3.12 has no more.
_BUILD = f"""
import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

extension = Extension("{_MODULE}", ["{_MODULE}.pyx"], include_dirs=[numpy.get_include()])
setup(name="{_MODULE}", ext_modules=cythonize([extension], language_level=2))
"""


def build_cython(folder: Path) -> bool:
    """Build the extension.

    Args:
        folder: an empty folder.

    Returns:
        Whether Cython, setuptools and a compiler were there to do it.
    """
    from fastreid.evaluation import rank_cylib

    source = Path(rank_cylib.__file__).parent / f"{_MODULE}.pyx"
    shutil.copy(source, folder)
    (folder / "setup.py").write_text(_BUILD, encoding="utf-8")
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def load_cython(folder: Path) -> Callable[..., Any]:
    """The ranking function of an extension that ``build_cython`` built."""
    (library,) = (p for p in folder.glob(f"{_MODULE}.*") if p.suffix in (".so", ".pyd"))
    spec = importlib.util.spec_from_file_location(_MODULE, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.evaluate_cy


_BLOCK = 4096


@dataclass(frozen=True)
class Size:
    """Numbers of a data set's test part.

    Attributes:
        name: the data set.
        queries: query images.
        gallery: gallery images.
        identities: persons among the queries.
        cameras: cameras.
        distractors: gallery images of nobody asked for, one label for all.
    """

    name: str
    queries: int
    gallery: int
    identities: int
    cameras: int
    distractors: int


SIZES = {
    "market": Size("Market-1501", 3368, 15913, 750, 6, 2798),
    "msmt17": Size("MSMT17", 11659, 82161, 3060, 15, 0),
}


class Labels(NamedTuple):
    """Identities and cameras, in the order in which ranking functions take them."""

    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_cameras: np.ndarray
    gallery_cameras: np.ndarray


def draw_labels(size: Size, random: np.random.Generator) -> Labels:
    """Queries from different (person, camera) pairs, two a person at least; a gallery of these."""
    order = random.permuted(np.tile(np.arange(size.cameras), (size.identities, 1)), axis=1)
    persons = np.repeat(np.arange(size.identities), size.cameras).reshape(order.shape)
    others = random.permutation((size.cameras - 2) * size.identities)
    others = others[: size.queries - 2 * size.identities]
    ids = np.concatenate([persons[:, :2].ravel(), persons[:, 2:].ravel()[others]])
    cameras = np.concatenate([order[:, :2].ravel(), order[:, 2:].ravel()[others]])
    pairs = random.integers(len(ids), size=size.gallery - size.distractors)
    nobody = np.full(size.distractors, size.identities)
    return Labels(
        ids,
        np.concatenate([ids[pairs], nobody]),
        cameras,
        np.concatenate([cameras[pairs], random.integers(size.cameras, size=size.distractors)]),
    )


def draw_features(
    size: Size, dimension: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, Labels]:
    """Features around one centre for each person, about as well told apart in any dimension.

    Args:
        size: how many.
        dimension: length of a feature vector.
        seed: of the generator.

    Returns:
        Features of queries (Q, dimension) and gallery (G, dimension), float32, and their labels.
    """
    random = np.random.default_rng(seed)
    labels = draw_labels(size, random)
    # The signal in a cosine grows with the dimension, its noise with the square root.
    noise = np.float32(0.6 * dimension**0.25)
    centres = random.standard_normal((size.identities, dimension), dtype=np.float32)

    def around(identities: np.ndarray) -> torch.Tensor:
        features = random.standard_normal((len(identities), dimension), dtype=np.float32)
        features *= noise
        # In blocks, so that the peak of memory is not that of drawing.
        for start in range(0, len(features), _BLOCK):
            block = slice(start, start + _BLOCK)
            known = identities[block] < size.identities
            features[block][known] += centres[identities[block][known]]
        return torch.from_numpy(features)

    return around(labels.query_ids), around(labels.gallery_ids), labels


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
