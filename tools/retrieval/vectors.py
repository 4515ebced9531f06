"""Features of a gallery in blocks, however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from metabin_plugin.files import open_regular, reason
from metabin_plugin.text import shown
from retrieval.faults import SearchError

ROWS = 16384


class Vectors(Protocol):
    """Rows of float32 of one length."""

    @property
    def shape(self) -> tuple[int, int]:
        """How many, and how long."""
        ...

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in order, some at a time; arrays (B, D) that may be changed."""
        ...


class NpyVectors:
    """The rows of .npy files, of which one block is in memory at a time.

    Args:
        paths: files of a two-dimensional array of numbers each, as ``numpy.save`` writes them.

    Raises:
        SearchError: a file cannot be read, or is no such array.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        arrays = [_open(path) for path in paths]
        for path, array in zip(paths, arrays, strict=True):
            if array.ndim != 2 or array.dtype.kind not in "fiu" or 0 in array.shape:
                raise SearchError(
                    f"{path} holds an array of shape {list(array.shape)} and type {array.dtype}; "
                    "give rows of numbers, one for each image"
                )
        lengths = {array.shape[1] for array in arrays}
        if len(lengths) > 1:
            raise SearchError(f"{paths[0].parent} has features of several lengths: {lengths}")
        self._shape = sum(len(array) for array in arrays), lengths.pop()

    @property
    def shape(self) -> tuple[int, int]:
        """How many, and how long."""
        return self._shape

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in order, float32."""
        for path in self._paths:
            for start in range(0, len(_open(path)), ROWS):
                # Opened anew, or the pages of a mapped file would add up in memory.
                yield np.array(_open(path)[start : start + ROWS], dtype=np.float32)


class Comparable:
    """Vectors as an index compares them.

    Args:
        vectors: the vectors.
        metric: "cosine", for which they are divided by their lengths, or "euclidean".
    """

    def __init__(self, vectors: Vectors, metric: str) -> None:
        self._vectors = vectors
        self._metric = metric

    @property
    def shape(self) -> tuple[int, int]:
        """How many, and how long."""
        return self._vectors.shape

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in order.

        Raises:
            SearchError: a row has no direction, or something else than numbers.
        """
        start = 0
        for block in self._vectors.blocks():
            yield comparable(block, self._metric, start)
            start += len(block)


def comparable(rows: np.ndarray, metric: str, first: int = 0) -> np.ndarray:
    """Rows as an index compares them, changed in place: of length 1 for "cosine".

    Args:
        rows: float32 (N, D).
        metric: "cosine" or "euclidean".
        first: number of the first row, for the error text.

    Raises:
        SearchError: a row is not finite, or is zero where directions are compared.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = ~np.isfinite(lengths) | ((lengths == 0) & (metric == "cosine"))
    if bad.any():
        number = first + int(np.flatnonzero(bad)[0])
        raise SearchError(
            f"feature {number} (from 0) is zero or has values that are not finite; look at the "
            "network's weights, or at the file of features"
        )
    if metric == "cosine":
        rows /= lengths
    return rows


def sample(vectors: Vectors, count: int, seed: int = 0) -> np.ndarray:
    """Some rows, drawn without replacement, in their order.

    Args:
        vectors: the rows to draw from.
        count: how many, at most as many as there are.
        seed: of the draw.
    """
    total, dimension = vectors.shape
    chosen = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    rows = np.empty((count, dimension), np.float32)
    start = 0
    for block in vectors.blocks():
        low, high = np.searchsorted(chosen, [start, start + len(block)])
        rows[low:high] = block[chosen[low:high] - start]
        start += len(block)
    return rows


def _open(path: Path) -> np.ndarray:
    try:
        open_regular(path).close()
        # Without pickles, which could run code.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # What a damaged or hostile header makes of NumPy has no common type.
    except Exception as error:
        raise SearchError(
            f"{path} cannot be read as an array of features ({shown(reason(error))}); "
            "give a .npy file"
        ) from error
    if not isinstance(array, np.ndarray):
        raise SearchError(f"{path} holds several arrays; give a .npy file, which holds one")
    return array
