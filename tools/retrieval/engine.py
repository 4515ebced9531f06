"""Building and asking a Faiss index."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval.faults import SearchError, load_faiss
from retrieval.plan import Plan
from retrieval.progress import Progress
from retrieval.vectors import Vectors, sample

METRICS = ("cosine", "euclidean")


def build_index(vectors: Vectors, plan: Plan, metric: str, *, gpu: bool = False) -> Any:
    """Build an index; rows are read in blocks, once to train and once to add.

    Args:
        vectors: the gallery, comparable by ``metric``.
        plan: what to build.
        metric: "cosine" of rows of length 1, or "euclidean".
        gpu: whether a GPU trains and adds.

    Returns:
        A Faiss index on the CPU.

    Raises:
        SearchError: Faiss is missing, or sees no GPU.
    """
    faiss = load_faiss()
    count, dimension = vectors.shape
    index = faiss.index_factory(dimension, plan.factory, measure_of(metric))
    if gpu:
        index = on_gpu(index)
    if not index.is_trained:
        index.train(sample(vectors, plan.training))
    progress = Progress("vectors indexed", count)
    for block in vectors.blocks():
        index.add(block)
        progress.add(len(block))
    if gpu:
        index = faiss.index_gpu_to_cpu(index)
    if plan.probes:
        set_probes(index, plan.probes)
    return index


def measure_of(metric: str) -> int:
    """Faiss's number for "cosine", of rows of length 1, or "euclidean"."""
    faiss = load_faiss()
    return int(faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2)


def search_index(
    index: Any, queries: np.ndarray, top: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest gallery entries of each query, nearest first.

    Args:
        index: a Faiss index.
        queries: float32 (Q, D), comparable by ``metric``.
        top: how many to find.
        metric: as the index was built by.

    Returns:
        Distances as evaluation has them (Q, K), one minus the cosine or squared Euclidean, and
        numbers of the entries (Q, K), K being at most ``top``. Entries at equal distance are
        ordered by number. Where the lists searched hold fewer entries, the last numbers are -1.
    """
    scores, rows = index.search(np.ascontiguousarray(queries), min(top, index.ntotal))
    distances = 1 - scores if metric == "cosine" else scores
    distances[rows < 0] = np.inf
    order = np.lexsort((rows, distances))
    return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)


def set_probes(index: Any, probes: int) -> None:
    """Set how many lists a query is compared with.

    Raises:
        SearchError: the index has no lists, or not as many.
    """
    lists = getattr(index, "nlist", 0)
    if not 1 <= probes <= lists:
        has = f"{lists} lists" if lists else "no lists, being flat"
        raise SearchError(f"--probes is {probes}, but the index has {has}; change or leave it out")
    index.nprobe = probes


def check_gpu() -> None:
    """Refuse to use a GPU where Faiss sees none.

    Raises:
        SearchError: there is none for it.
    """
    if not getattr(load_faiss(), "get_num_gpus", lambda: 0)():
        raise SearchError(
            "--gpu was given, but Faiss sees no GPU; install a build of Faiss with GPU support, "
            "or leave --gpu out"
        )


def on_gpu(index: Any) -> Any:
    """A copy of an index on all GPUs.

    Raises:
        SearchError: Faiss sees none.
    """
    check_gpu()
    return load_faiss().index_cpu_to_all_gpus(index)
