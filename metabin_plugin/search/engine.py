"""Building, changing and asking a Faiss index."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from metabin_plugin.errors import SearchError
from metabin_plugin.search.vectors import ROWS, ProgressBar, Vectors, sample

KINDS = ("flat", "ivf", "ivf-pq")
METRICS = ("cosine", "euclidean")
FLAT_UP_TO = 200_000
IVF_UP_TO = 2_000_000
# Faiss warns of fewer vectors for a k-means centre.
VECTORS_PER_LIST = 39
TRAINING_PER_LIST = 64
CODES = 256  # centres of one byte of a code
FEWEST_PROBES = 8
DIMENSIONS_PER_BYTE = 8


def load_faiss() -> Any:
    """Faiss, the module.

    Raises:
        SearchError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise SearchError(
            "galleries are searched by Faiss, which is not installed; run `pip install faiss-cpu`"
        ) from None
    return faiss


@dataclass(frozen=True)
class Plan:
    """How an index is built.

    Attributes:
        kind: "flat", all vectors compared with a query, which is exact; "ivf", inverted lists of
            whole vectors; "ivf-pq", inverted lists of codes of product quantization.
        lists: number of inverted lists; 0 for flat.
        probes: lists that a query is compared with.
        code_bytes: size of a vector's code; 0 for whole vectors.
        training: vectors that lists and codes are learned from.
    """

    kind: str
    lists: int = 0
    probes: int = 0
    code_bytes: int = 0
    training: int = 0

    @property
    def factory(self) -> str:
        """What Faiss calls it."""
        if self.kind == "flat":
            return "Flat"
        # "np" leaves out polysemous training: 20 times as long, for a search that is not used.
        return f"IVF{self.lists},{f'PQ{self.code_bytes}np' if self.code_bytes else 'Flat'}"

    def __str__(self) -> str:
        if self.kind == "flat":
            return "flat (exact)"
        codes = f" of {self.code_bytes}-byte codes" if self.code_bytes else ""
        return (
            f"{self.kind}, {self.lists:,} lists{codes}, {self.probes} of them searched, "
            f"trained on {self.training:,} vectors"
        )


def plan_index(
    count: int,
    dimension: int,
    kind: str = "auto",
    *,
    lists: int | None = None,
    probes: int | None = None,
    code_bytes: int | None = None,
    training: int | None = None,
) -> Plan:
    """Choose what is left open.

    "auto" is flat up to 200,000 vectors, ivf up to 2,000,000 and ivf-pq above. Lists are the power
    of two nearest to 4 times the square root of the number of vectors, at most one for 39 vectors;
    a query is compared with the square root of their number, at least 8. A code has a byte for 8
    dimensions, or for more where 8 do not divide them. Training takes 64 vectors for each list.

    Args:
        count: number of vectors.
        dimension: length of a vector.
        kind: one of ``KINDS``, or "auto".
        lists: number of inverted lists.
        probes: lists that a query is compared with.
        code_bytes: size of a vector's code; it divides the dimension.
        training: vectors to train on.

    Raises:
        SearchError: the parameters do not fit each other or the vectors.
    """
    if kind == "auto":
        kind = "flat" if count <= FLAT_UP_TO else "ivf" if count <= IVF_UP_TO else "ivf-pq"
    given = {"--lists": lists, "--probes": probes, "--bytes": code_bytes, "--training": training}
    _check_use(kind, given)
    if kind == "flat":
        return Plan("flat")
    if lists is None:
        lists = max(1, min(2 ** round(math.log2(4 * math.sqrt(count))), count // VECTORS_PER_LIST))
    if training is None:
        training = min(count, max(TRAINING_PER_LIST * lists, VECTORS_PER_LIST * CODES))
    if probes is None:
        probes = min(lists, max(FEWEST_PROBES, round(math.sqrt(lists))))
    if kind == "ivf-pq" and code_bytes is None:
        code_bytes = _code_bytes(dimension)
    plan = Plan(kind, lists, probes, code_bytes or 0, training)
    _check_fit(plan, count, dimension)
    return plan


def _code_bytes(dimension: int) -> int:
    most = max(1, dimension // DIMENSIONS_PER_BYTE)
    return next(size for size in range(most, 0, -1) if dimension % size == 0)


def _check_use(kind: str, given: dict[str, int | None]) -> None:
    unused = list(given) if kind == "flat" else ["--bytes"] if kind == "ivf" else []
    for option, value in given.items():
        if value is None:
            continue
        if option in unused:
            raise SearchError(
                f"{option} is {value!r}, but an index of kind {kind} has no use for it; "
                "leave it out or choose another --kind"
            )
        if value < 1:
            raise SearchError(f"{option} is {value!r}; give at least 1")


def _check_fit(plan: Plan, count: int, dimension: int) -> None:
    needed = max(plan.lists, CODES if plan.code_bytes else 1)
    if plan.code_bytes and dimension % plan.code_bytes:
        fault = f"--bytes is {plan.code_bytes}, which does not divide the dimension {dimension}"
    elif plan.probes > plan.lists:
        fault = f"--probes is {plan.probes}, but there are {plan.lists} lists"
    elif plan.training > count:
        fault = f"--training is {plan.training}, but there are {count} vectors"
    elif plan.training < needed:
        fault = f"{plan.training} vectors to train on are too few for {plan}: it takes {needed}"
    else:
        return
    raise SearchError(f"{fault}; change it, or take --kind flat")


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
    index = faiss.index_factory(vectors.shape[1], plan.factory, measure_of(metric))
    if gpu:
        index = on_gpu(index)
    if not index.is_trained:
        index.train(sample(vectors, plan.training))
    add_vectors(index, vectors)
    if gpu:
        index = faiss.index_gpu_to_cpu(index)
    if plan.probes:
        set_probes(index, plan.probes)
    return index


def flat_rows(index: Any) -> np.ndarray:
    """The rows of a flat index (N, D), float32: its own memory, valid as long as it is."""
    pointer, shape = index.get_xb(), (index.ntotal, index.d)
    return load_faiss().rev_swig_ptr(pointer, math.prod(shape)).reshape(shape)


def add_vectors(index: Any, vectors: Vectors) -> None:
    """Add entries behind those of a trained index; lists and codes stay as they were learned.

    Args:
        index: a Faiss index.
        vectors: of its dimension, comparable by its metric; they are read in blocks.
    """
    with ProgressBar("vectors indexed", vectors.shape[0]) as bar:
        for block in vectors.blocks():
            index.add(block)
            bar.update(len(block))


def remove_rows(index: Any, rows: np.ndarray) -> None:
    """Remove entries; those that stay are numbered anew, in the same order.

    Args:
        index: a Faiss index.
        rows: numbers of the entries (R,), int64.
    """
    faiss = load_faiss()
    stays = np.ones(index.ntotal, bool)
    stays[rows] = False
    new_numbers = np.cumsum(stays) - 1
    index.remove_ids(rows)
    # A flat index has no numbers but the places of its vectors.
    for place in range(getattr(index, "nlist", 0)):
        if length := index.invlists.list_size(place):
            numbers = faiss.rev_swig_ptr(index.invlists.get_ids(place), length)
            numbers[:] = new_numbers[numbers]


def append_index(index: Any, other: Any) -> None:
    """Add the entries of another index of the same metric and dimension behind those of an index.

    Args:
        index: a Faiss index.
        other: another one, which may be empty afterwards.

    Raises:
        SearchError: the other one keeps codes, of which there are no vectors any more, and has not
            learned the same ones.
    """
    ones, others = _learned(index), _learned(other)
    if len(ones) == len(others) and all(map(np.array_equal, ones, others)):
        index.merge_from(other, index.ntotal if ones else 0)
        return
    if hasattr(other, "pq"):
        raise SearchError(
            "an index of codes goes only into one with the same lists and codes; merge in the "
            "other order, or index both galleries anew"
        )
    for start in range(0, other.ntotal, ROWS):
        index.add(other.reconstruct_n(start, min(ROWS, other.ntotal - start)))


def _learned(index: Any) -> list[np.ndarray]:
    """What an index was trained to: nothing, centres of lists, or those and of codes."""
    faiss = load_faiss()
    if not hasattr(index, "nlist"):
        return []
    learned = [faiss.downcast_index(index.quantizer).reconstruct_n(0, index.nlist)]
    if hasattr(index, "pq"):
        learned.append(faiss.vector_to_array(index.pq.centroids))
    return learned


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
        ordered by number. Where the lists searched hold fewer entries, or such whose distance is
        beyond all numbers, the last numbers are -1.
    """
    scores, rows = index.search(np.ascontiguousarray(queries), min(top, index.ntotal))
    distances = 1 - scores if metric == "cosine" else scores
    rows[~np.isfinite(distances)] = -1
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
        raise SearchError(
            f"--probes is {probes!r}, but the index has {has}; change or leave it out"
        )
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
