"""A Faiss index as plain arrays in a file, and made anew from them.

Faiss's own reader trusts a file: it opens other files that it names, allocates what a length says,
and crashes over bytes that do not fit each other. Here a few numbers say how long each array is,
and the index is made anew from the arrays by Faiss's functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from metabin_plugin.search.engine import CODES, KINDS, measure_of
from metabin_plugin.search.faults import load_faiss
from metabin_plugin.search.vectors import ROWS

_FLOAT, _NUMBER, _BYTE = np.dtype("<f4"), np.dtype("<i8"), np.dtype("u1")


@dataclass(frozen=True)
class Layout:
    """What kind of index it is, and how large.

    Attributes:
        kind: "flat", "ivf" or "ivf-pq".
        count: number of vectors.
        dimension: their length.
        lists: number of inverted lists; 0 for flat.
        probes: lists that a query is compared with; 0 for flat.
        code_bytes: size of a vector's code; 0 for whole vectors.
    """

    kind: str
    count: int
    dimension: int
    lists: int = 0
    probes: int = 0
    code_bytes: int = 0

    @classmethod
    def of(cls, index: Any) -> Layout:
        """That of a Faiss index which ``build_index`` made."""
        if not hasattr(index, "nlist"):
            return cls("flat", index.ntotal, index.d)
        kind, size = ("ivf-pq", index.pq.M) if hasattr(index, "pq") else ("ivf", 0)
        return cls(kind, index.ntotal, index.d, index.nlist, index.nprobe, size)

    @classmethod
    def checked(cls, content: Any) -> Layout:
        """That which a file gives.

        Args:
            content: the fields by name.

        Raises:
            TypeError: it is something else.
            ValueError: no index of ours has these sizes.
        """
        layout = cls(**content)
        kind, *sizes = (getattr(layout, name) for name in cls.__dataclass_fields__)
        if kind not in KINDS or not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError("it has an index of another kind, or sizes that are not numbers")
        fits = min(layout.count, layout.dimension) >= 1
        if kind == "flat":
            fits &= layout.lists == layout.probes == 0
        else:
            fits &= 1 <= layout.probes <= layout.lists <= layout.count
        if kind == "ivf-pq":
            fits &= layout.code_bytes > 0 and layout.dimension % layout.code_bytes == 0
        else:
            fits &= layout.code_bytes == 0
        if not fits:
            raise ValueError("the sizes of its index do not fit each other")
        return layout

    @property
    def size(self) -> int:
        """Bytes of all arrays in a file."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.arrays.values())

    @property
    def arrays(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Type and shape of each array, in the order of the file."""
        whole = _FLOAT, (self.count, self.dimension)
        if self.kind == "flat":
            return {"codes": whole}
        arrays: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            "centres": (_FLOAT, (self.lists, self.dimension)),
            "lengths": (_NUMBER, (self.lists,)),
            # The entries' numbers and codes are in the order of the lists.
            "numbers": (_NUMBER, (self.count,)),
            "codes": (_BYTE, (self.count, self.code_bytes)) if self.code_bytes else whole,
        }
        if self.code_bytes:
            part = self.dimension // self.code_bytes
            arrays["parts"] = _FLOAT, (self.code_bytes, CODES, part)
        return arrays


def write_index(index: Any, write: Callable[[memoryview], object]) -> None:
    """Write the arrays of a Faiss index that ``build_index`` made.

    Args:
        index: the index.
        write: writes some bytes after those before.
    """
    faiss = load_faiss()
    layout = Layout.of(index)
    if layout.kind == "flat":
        write(_view(index.codes.data(), layout.size).data)
        return
    centres = faiss.downcast_index(index.quantizer).reconstruct_n(0, layout.lists)
    lists = index.invlists
    lengths = [lists.list_size(number) for number in range(layout.lists)]
    write(centres.astype(_FLOAT).data)
    write(np.array(lengths, _NUMBER).data)
    for number, length in enumerate(lengths):
        write(_view(lists.get_ids(number), length).astype(_NUMBER).data)
    for number, length in enumerate(lengths):
        write(_view(lists.get_codes(number), length * lists.code_size).data)
    if layout.code_bytes:
        write(faiss.vector_to_array(index.pq.centroids).astype(_FLOAT).data)


def read_index(file: BinaryIO, layout: Layout, metric: str) -> Any:
    """Make a Faiss index from its arrays.

    Args:
        file: at their start; it has ``layout.size`` more bytes.
        layout: which arrays.
        metric: "cosine" or "euclidean".

    Raises:
        ValueError: the arrays are none of an index.
    """
    faiss = load_faiss()
    measure = measure_of(metric)
    if layout.kind == "flat":
        index = faiss.IndexFlat(layout.dimension, measure)
        # In its own memory, or a large index would be there twice.
        index.codes.resize(layout.size)
        _fill(file, _view(index.codes.data(), layout.size), _FLOAT, layout.dimension)
        index.ntotal = layout.count
        return index
    quantizer = faiss.IndexFlat(layout.dimension, measure)
    quantizer.add(_read(file, layout, "centres"))
    if layout.code_bytes:
        sizes = layout.dimension, layout.lists, layout.code_bytes, 8
        index = faiss.IndexIVFPQ(quantizer, *sizes, measure)
    else:
        index = faiss.IndexIVFFlat(quantizer, layout.dimension, layout.lists, measure)
    _fill_lists(file, layout, index.invlists)
    if layout.code_bytes:
        faiss.copy_array_to_vector(_read(file, layout, "parts").ravel(), index.pq.centroids)
        index.precompute_table()
    index.is_trained, index.ntotal, index.nprobe = True, layout.count, layout.probes
    return index


def _fill_lists(file: BinaryIO, layout: Layout, lists: Any) -> None:
    lengths = _read(file, layout, "lengths")
    if lengths.min() < 0 or lengths.max() > layout.count or lengths.sum() != layout.count:
        raise ValueError("its lists have other lengths than its entries")
    numbers = _read(file, layout, "numbers")
    if numbers.min() < 0 or numbers.max() >= layout.count or np.bincount(numbers).max() > 1:
        raise ValueError("its lists do not hold each entry once")
    dtype, (_, width) = layout.arrays["codes"]
    for number, (start, length) in enumerate(_slices(lengths)):
        lists.resize(number, length)
        if length:
            _view(lists.get_ids(number), length)[:] = numbers[start : start + length]
            codes = _view(lists.get_codes(number), length * lists.code_size)
            _fill(file, codes, dtype, width)


def _slices(lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    start = 0
    for length in lengths.tolist():
        yield start, length
        start += length


def _read(file: BinaryIO, layout: Layout, name: str) -> np.ndarray:
    dtype, shape = layout.arrays[name]
    array = np.empty(shape, dtype)
    _fill(file, array.reshape(-1).view(_BYTE), dtype, shape[-1])
    return array


def _fill(file: BinaryIO, memory: np.ndarray, dtype: np.dtype[Any], width: int) -> None:
    """Fill bytes from a file, and refuse floats that are not finite; a row has some values."""
    step = ROWS * width * dtype.itemsize
    for start in range(0, len(memory), step):
        block = memory[start : start + step]
        data = file.read(len(block))
        if len(data) != len(block):
            raise ValueError("it is cut short")
        block[:] = np.frombuffer(data, _BYTE)
        if dtype is _FLOAT and not np.isfinite(block.view(_FLOAT)).all():
            raise ValueError("its index has values that are not finite")


def _view(pointer: Any, length: int) -> np.ndarray:
    """Memory of Faiss as an array, which is valid as long as what it belongs to."""
    # It refuses a pointer to nothing, which an empty list has.
    return load_faiss().rev_swig_ptr(pointer, length) if length else np.empty(0, _BYTE)
