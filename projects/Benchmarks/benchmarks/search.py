"""The search: flat, ivf and ivf-pq on drawn vectors: time, memory, and recall@10 against flat.

Each kind is built and asked in a process of its own, from a temporary file of the vectors. They lie
as the features of people do: in clusters, in few of many dimensions.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from benchmarks.measuring import measure_apart
from metabin_plugin.errors import SearchError
from metabin_plugin.search.engine import (
    KINDS,
    build_index,
    check_gpu,
    load_faiss,
    on_gpu,
    plan_index,
    search_index,
    set_probes,
)
from metabin_plugin.search.index_file import Layout
from metabin_plugin.search.vectors import ROWS, Comparable, NpyVectors

TOP = 10
ALONE = 100  # queries that are asked one by one
METRIC = "cosine"

IMAGES_PER_PERSON = 10
SUBSPACE = 64
NOISE = 0.6

DESCRIPTION = (
    f"One person for {IMAGES_PER_PERSON} vectors, drawn for each vector at random. A person is a "
    f"direction at random in a subspace of {SUBSPACE} dimensions, an image that unit vector plus "
    f"Gaussian noise of length {NOISE} in all dimensions. Queries are further images."
)


@dataclass(frozen=True)
class Setting:
    """One way to ask an index.

    Attributes:
        probes: lists searched; 0 for a flat index.
        batch_ms: milliseconds for a query when all are asked at once.
        alone_ms: median of milliseconds for a query asked alone.
        recall: share of the ten exact neighbours that are among the ten found.
    """

    probes: int
    batch_ms: float
    alone_ms: float
    recall: float


@dataclass(frozen=True)
class Measured:
    """One kind of index.

    Attributes:
        plan: how it was built.
        build_s: seconds to read, normalize, train and add.
        index_bytes: size of the index as a file.
        peak_bytes: largest resident memory of its process.
        settings: ways to ask it.
    """

    plan: str
    build_s: float
    index_bytes: int
    peak_bytes: int
    settings: list[Setting]


@dataclass(frozen=True)
class Report:
    """All kinds.

    Attributes:
        vectors, dimension, queries: what was searched.
        idle_bytes: largest resident memory of a process that does nothing.
        indexes: the kinds.
    """

    vectors: int
    dimension: int
    queries: int
    idle_bytes: int
    indexes: list[Measured]

    def text(self) -> str:
        """What is printed: a table in Markdown, and what the vectors are."""
        idle = f"{self.idle_bytes / 2**20:,.0f} MiB are those of a process that does nothing."
        return f"{self._table()}\n\n{DESCRIPTION}\nOf the peak memory, {idle}"

    def content(self) -> dict[str, Any]:
        """All that was measured, for JSON."""
        return {"data": DESCRIPTION, **asdict(self)}

    def _table(self) -> str:
        rows = []
        for one in self.indexes:
            built = [
                one.plan,
                f"{one.build_s:.1f}",
                f"{one.index_bytes / 2**20:,.0f}",
                f"{one.peak_bytes / 2**20:,.0f}",
            ]
            for way in one.settings:
                times = [f"{way.alone_ms:.2f}", f"{way.batch_ms:.3f}", f"{way.recall:.3f}"]
                rows.append([*built, way.probes or "", *times])
                built = [""] * len(built)
        headers = (
            *("index", "build, s", "index, MiB", "peak memory, MiB", "searched lists"),
            *("query alone, ms", f"of {self.queries:,} at once, ms", f"recall@{TOP}"),
        )
        title = f"{self.vectors:,} vectors of {self.dimension}, {self.queries:,} queries"
        return f"{title}\n\n{tabulate(rows, headers, tablefmt='pipe', disable_numparse=True)}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own arguments."""
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--gpu", action="store_true", help="use Faiss's GPUs")


def run(args: argparse.Namespace) -> Report:
    """Draw and measure.

    Raises:
        SearchError: a number is too small, or Faiss or its GPUs are not there.
    """
    load_faiss()
    if args.gpu:
        check_gpu()
    for name in ("vectors", "dimension", "queries"):
        if getattr(args, name) < 1:
            raise SearchError(f"--{name} is {getattr(args, name)!r}; give at least 1")
    for kind in args.kinds:
        plan_index(args.vectors, args.dimension, kind)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_vectors(folder, args.vectors, args.dimension, args.queries)
        # Flat always, because the others' recall is measured against it.
        measured = {"flat": _measure(folder, "flat", args.gpu)}
        for kind in args.kinds:
            if kind not in measured:
                measured[kind] = _measure(folder, kind, args.gpu)
    idle = measure_apart(load_faiss_only)[1]
    found = [measured[kind] for kind in args.kinds]
    return Report(args.vectors, args.dimension, args.queries, idle, found)


def load_faiss_only() -> None:
    """What every measured process does."""
    load_faiss()


def _measure(folder: Path, kind: str, gpu: bool) -> Measured:
    (plan, seconds, size, settings), peak = measure_apart(build_and_ask, folder, kind, gpu)
    return Measured(plan, seconds, size, peak, [Setting(*setting) for setting in settings])


def build_and_ask(
    folder: Path, kind: str, gpu: bool
) -> tuple[str, float, int, list[tuple[int, float, float, float]]]:
    """Build an index of the vectors in a folder and ask it; flat leaves the exact neighbours there.

    Args:
        folder: of ``draw_vectors``.
        kind: of the index.
        gpu: whether to use GPUs.

    Returns:
        The fields of ``Measured`` but the memory, and those of each ``Setting``.
    """
    vectors = Comparable(NpyVectors([folder / "gallery.npy"]), METRIC)
    (queries,) = Comparable(NpyVectors([folder / "queries.npy"]), METRIC).blocks()
    plan = plan_index(*vectors.shape, kind)
    start = time.perf_counter()
    index = build_index(vectors, plan, METRIC, gpu=gpu)
    seconds = time.perf_counter() - start
    size = Layout.of(index).size
    settings = []
    for probes in _probes(plan.probes, plan.lists):
        if probes:
            set_probes(index, probes)
        settings.append((probes, *_ask(on_gpu(index) if gpu else index, queries, folder, kind)))
    return str(plan), seconds, size, settings


def _probes(planned: int, lists: int) -> list[int]:
    if not planned:
        return [0]
    return sorted({max(1, planned // 4), planned, min(lists, planned * 4)})


def _ask(index: object, queries: np.ndarray, folder: Path, kind: str) -> tuple[float, float, float]:
    start = time.perf_counter()
    _, rows = search_index(index, queries, TOP, METRIC)
    batch = (time.perf_counter() - start) / len(queries)
    times = []
    for query in queries[:ALONE]:
        start = time.perf_counter()
        search_index(index, query[None], TOP, METRIC)
        times.append(time.perf_counter() - start)
    exact = folder / "exact.npy"
    if kind == "flat":
        np.save(exact, rows)
    return 1000 * batch, 1000 * float(np.median(times)), recall(rows, np.load(exact))


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact neighbours that were found.

    Args:
        found: numbers of entries (Q, K), -1 for none.
        exact: numbers of the nearest entries (Q, K).
    """
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)]
    return float(np.sum(hits) / exact.size)


def draw_vectors(
    folder: Path, count: int, dimension: int, queries: int, seed: int = 0
) -> tuple[Path, Path]:
    """Write a gallery and queries, see ``DESCRIPTION``.

    Args:
        folder: where to write.
        count: gallery vectors.
        dimension: length of a vector.
        queries: query vectors.
        seed: of the generator.

    Returns:
        A .npy file of the gallery (count, dimension) and one of the queries, float32.
    """
    random = np.random.default_rng(seed)
    people = max(1, count // IMAGES_PER_PERSON)
    subspace = min(SUBSPACE, dimension)
    centres = random.standard_normal((people, subspace), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    basis = np.linalg.qr(random.standard_normal((dimension, subspace)))[0].T.astype(np.float32)
    paths = folder / "gallery.npy", folder / "queries.npy"
    for path, rows in zip(paths, (count, queries), strict=True):
        file = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dimension))
        for start in range(0, rows, ROWS):
            block = file[start : start + ROWS]
            block[:] = random.standard_normal(block.shape, dtype=np.float32)
            block *= np.float32(NOISE / np.sqrt(dimension))
            block += centres[random.integers(people, size=len(block))] @ basis
        file.flush()
    return paths
