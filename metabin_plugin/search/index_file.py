"""The file of an index: what it describes, what its rows are, and the Faiss index itself.

A line of its own; three times the length of a part (8 bytes, little endian) and the part: the
header and the sizes of the index as JSON, and the table of names; the arrays of the index; and a
CRC-32 of all that (4 bytes). An index by camera, version 4, has two more parts behind the names:
the names of its cameras as JSON, and their numbers and statistics. Version 2 has the names as JSON,
too.

A file may come from anyone: it runs no code, it opens no other file, and all that it says of itself
is checked. Faiss's own reader opens other files that a file names, allocates what a length says,
and crashes over bytes that do not fit each other. Here a few numbers say how long each array is,
and the index is made anew from the arrays by Faiss's functions. ``zipfile`` is not used as the
container: it does not notice a changed bit in a tenth of a small archive, nor bytes around it.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from metabin_plugin.errors import SearchError
from metabin_plugin.files import open_regular, reason, write_whole
from metabin_plugin.search.cameras import Cameras, Moments, Statistics
from metabin_plugin.search.engine import CODES, KINDS, METRICS, load_faiss, measure_of
from metabin_plugin.search.vectors import ROWS
from metabin_plugin.text import shown

MAGIC = b"metabin-search 3\n"
BY_CAMERA = b"metabin-search 4\n"
NAMES_AS_JSON = b"metabin-search 2\n"
_FORMER = b"metabin-search 1\n"
_CRC_BYTES = 4
_LENGTH_BYTES = 8
_CHUNK = 1 << 20
# Of a feature's length; checkpoints of one short training differed by 0.4.
_TOLERANCE = 0.02
_OTHER_COUNT = "it has not one name for each of its rows"
_FLOAT, _NUMBER, _BYTE = np.dtype("<f4"), np.dtype("<i8"), np.dtype("u1")
_PLACE, _DOUBLE = np.dtype("<i4"), np.dtype("<f8")


@dataclass(frozen=True)
class Header:
    """What an index describes.

    Attributes:
        metric: "cosine" or "euclidean".
        plan: how it was built, in words.
        folder: where the images of the names are; "" if the names are not of images.
        config: the config of the network, YAML; "" if the features came in a file.
        probe: the network's feature of a fixed image, by which it is known again.
        threshold: distance below which an entry is taken for the query's person; None for no such
            decision. Files of former versions have none.
        calibration: how the threshold was found, in words.
    """

    metric: str
    plan: str = ""
    folder: str = ""
    config: str = ""
    probe: Sequence[float] = ()
    threshold: float | None = None
    calibration: str = ""


class Names(Sequence[str]):
    """Texts that take their bytes and eight more each; as Python's strings some 60 more.

    It is read as a whole, not mapped from the file: what was checked is what is used, also when the
    file changes or is cut short meanwhile.

    Args:
        starts: where each text starts in the bytes, and where the last one ends (N + 1,).
        text: UTF-8; bytes that are not stand for escaped surrogates, as in paths.
    """

    def __init__(self, starts: np.ndarray, text: bytes | bytearray) -> None:
        self.starts, self.text = starts, text

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        """The table of some texts, which may come one by one."""
        if isinstance(texts, cls):
            return texts
        starts, joined = array("q", [0]), bytearray()
        for text in texts:
            joined += text.encode(errors="surrogateescape")
            starts.append(len(joined))
        return cls(np.frombuffer(starts, np.int64), joined)

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return self.starts.nbytes + len(self.text)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[row] for row in range(*place.indices(len(self)))]
        row = range(len(self))[place]
        return self._decoded(*self.starts[row : row + 2].tolist())

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), ROWS):
            for start, end in pairwise(self.starts[first : first + ROWS + 1].tolist()):
                yield self._decoded(start, end)

    def _decoded(self, start: int, end: int) -> str:
        return self.text[start:end].decode(errors="surrogateescape")


@dataclass(frozen=True)
class Gallery:
    """An index and what its rows are.

    Attributes:
        header: what it describes.
        names: of each row: the path of an image, relative to ``header.folder``, or any identifier.
        index: the Faiss index. By camera it holds features as the network gave them, which are not
            to be searched before ``cameras.make_comparable``.
        cameras: of an index by camera; else None.
    """

    header: Header
    names: Sequence[str]
    index: Any
    cameras: Cameras | None = None

    def path(self, row: int, folder: str = "") -> str:
        """Path of a row's image, or its name where it has none.

        Args:
            row: number of the row.
            folder: where the images are now; "" for where they were.
        """
        folder = self.header.folder and (folder or self.header.folder)
        return str(Path(folder, self.names[row])) if folder else self.names[row]


def write_gallery(path: Path, gallery: Gallery) -> None:
    """Write an index, complete or not at all.

    Raises:
        SearchError: it cannot be written.
    """

    def write(file: BinaryIO) -> None:
        crc = 0

        def put(data: bytes | bytearray | memoryview) -> None:
            nonlocal crc
            crc = zlib.crc32(data, crc)
            file.write(data)

        put(MAGIC if gallery.cameras is None else BY_CAMERA)
        layout = asdict(Layout.of(gallery.index))
        for part in (asdict(gallery.header), layout):
            text = json.dumps(part).encode()
            put(len(text).to_bytes(_LENGTH_BYTES, "little"))
            put(text)
        names = Names.of(gallery.names)
        put(names.size.to_bytes(_LENGTH_BYTES, "little"))
        put(names.starts.astype(_NUMBER, copy=False).data)
        put(names.text)
        if gallery.cameras is not None:
            for data in _bytes_of(gallery.cameras):
                put(len(data).to_bytes(_LENGTH_BYTES, "little"))
                put(data)
        write_index(gallery.index, put)
        file.write(crc.to_bytes(_CRC_BYTES, "little"))

    write_whole(path, write, SearchError)


def read_gallery(path: Path) -> Gallery:
    """Read an index that ``write_gallery`` wrote.

    Raises:
        SearchError: there is none, it is of something else, or it is damaged.
    """
    try:
        with open_regular(path) as file:
            start = _verify(file, path)
            file.seek(len(start))
            return _read_parts(file, start)
    except OSError as error:
        raise SearchError(
            f"{path} cannot be read ({reason(error)}); give the file that `index` wrote"
        ) from error
    # JSON that is no JSON, or has other values or more levels than ours.
    except (TypeError, ValueError, RecursionError) as error:
        raise SearchError(
            f"{path} was not written by `index` ({shown(str(error))}); make it anew"
        ) from error


def check_network(header: Header, probe: np.ndarray) -> None:
    """Refuse features of another network than the index was made by.

    Args:
        header: of the index.
        probe: the network's feature of the fixed image (D,).

    Raises:
        SearchError: they differ by more than another device or precision would explain.
    """
    expected = np.asarray(header.probe, np.float64)
    if expected.shape != probe.shape:
        fault = f"features of {expected.size} values, and this network gives {probe.size}"
    elif not np.linalg.norm(expected - probe) <= _TOLERANCE * np.linalg.norm(expected):
        fault = "features of other weights, or of another INPUT.SIZE_TEST or TEST.FLIP"
    else:
        return
    raise SearchError(
        f"the index has {fault}; name the network that it was made by, or index the gallery anew"
    )


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
            # Of fewer entries than lists are those that removing has left.
            fits &= 1 <= layout.probes <= layout.lists
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


def _verify(file: BinaryIO, path: Path) -> bytes:
    """Refuse a damaged file, and give the line that says its version."""
    start = file.read(len(MAGIC))
    if start == _FORMER:
        raise SearchError(f"{path} was written by a former version; index the gallery anew")
    if start not in (MAGIC, NAMES_AS_JSON, BY_CAMERA):
        raise SearchError(f"{path} is no index of this tool; give the file that `index` wrote")
    crc, last = zlib.crc32(start), b""
    while chunk := file.read(_CHUNK):
        data = last + chunk
        crc, last = zlib.crc32(data[:-_CRC_BYTES], crc), data[-_CRC_BYTES:]
    if crc != int.from_bytes(last, "little"):
        raise SearchError(f"{path} is damaged or cut short; make it anew")
    return start


def _read_parts(file: BinaryIO, version: bytes) -> Gallery:
    header, layout = Header(**_json(file)), Layout.checked(_json(file))
    read_names = _json_names if version == NAMES_AS_JSON else _table_of_names
    names = read_names(file, layout.count)
    cameras = _read_cameras(file, layout) if version == BY_CAMERA else None
    left = os.fstat(file.fileno()).st_size - file.tell() - _CRC_BYTES
    if layout.size != left:
        raise ValueError(f"its index takes {layout.size:,} bytes, and it has {left:,}")
    _check_header(header, layout)
    if header.folder:
        _check_paths(names)
    return Gallery(header, names, _read_index(file, layout, header.metric), cameras)


def _bytes_of(cameras: Cameras) -> Iterator[bytes]:
    """The parts of an index's cameras: names, and numbers and statistics."""
    kept = [some for some in (cameras.statistics, cameras.calibrated) if some is not None]
    yield json.dumps([list(some) for some in kept]).encode()
    arrays = [cameras.places.astype(_PLACE)]
    for some in kept:
        counts, means, squares = zip(*some.values(), strict=True)
        arrays += [np.array(counts, _NUMBER), np.array(means, _DOUBLE), np.array(squares, _DOUBLE)]
    yield b"".join(array.tobytes() for array in arrays)


def _read_cameras(file: BinaryIO, layout: Layout) -> Cameras:
    tables = _json(file)
    if layout.kind != "flat":
        raise ValueError("it is by camera, but not flat")
    if not isinstance(tables, list) or not 1 <= len(tables) <= 2:
        raise ValueError("it has not one or two lists of cameras")
    for names in tables:
        if not isinstance(names, list) or not names or not all(map(_is_text, names)):
            raise ValueError("its cameras are not a list of texts")
        if len(set(names)) < len(names):
            raise ValueError("a camera in it is there twice")
    own = _NUMBER.itemsize + 2 * layout.dimension * _DOUBLE.itemsize
    size = layout.count * _PLACE.itemsize + sum(map(len, tables)) * own
    if _length(file) != size:
        raise ValueError("the statistics of its cameras have another length")
    places = np.frombuffer(file.read(layout.count * _PLACE.itemsize), _PLACE)
    if places.min() < 0 or places.max() >= len(tables[0]):
        raise ValueError("a row in it is of no camera")
    statistics, *calibrated = (_read_statistics(file, names, layout.dimension) for names in tables)
    counts = np.bincount(places, minlength=len(statistics))
    if counts.tolist() != [moments.number for moments in statistics.values()]:
        raise ValueError("its cameras have other numbers of rows")
    return Cameras(places, statistics, *calibrated)


def _read_statistics(file: BinaryIO, names: Sequence[str], dimension: int) -> Statistics:
    counts = np.frombuffer(file.read(len(names) * _NUMBER.itemsize), _NUMBER)
    size = len(names) * dimension * _DOUBLE.itemsize
    means, squares = (
        np.frombuffer(file.read(size), _DOUBLE).reshape(-1, dimension) for _ in range(2)
    )
    # Those of float32 features; the comparisons are false of what is no number.
    largest = float(np.finfo(_FLOAT).max)
    fits = (np.abs(means) <= largest) & (squares >= 0) & (squares <= counts[:, None] * largest**2)
    if counts.min() < 1 or not fits.all():
        raise ValueError("the statistics of its cameras are none")
    kept = zip(counts.tolist(), means, squares, strict=True)
    return {name: Moments(*moments) for name, moments in zip(names, kept, strict=True)}


def _json(file: BinaryIO) -> Any:
    return json.loads(file.read(_length(file)))


def _length(file: BinaryIO) -> int:
    """That of the part which comes next."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > os.fstat(file.fileno()).st_size - file.tell():
        raise ValueError("a length in it goes beyond its end")
    return length


def _json_names(file: BinaryIO, count: int) -> Names:
    names = _json(file)
    if not isinstance(names, list) or len(names) != count:
        raise ValueError(_OTHER_COUNT)
    if not all(map(_is_text, names)):
        raise ValueError("a name in it is not a text")
    return Names.of(names)


def _table_of_names(file: BinaryIO, count: int) -> Names:
    length = _length(file) - (count + 1) * _NUMBER.itemsize
    if length < 0:
        raise ValueError(_OTHER_COUNT)
    starts = np.frombuffer(file.read((count + 1) * _NUMBER.itemsize), _NUMBER)
    if starts[0] != 0 or starts[-1] != length or (starts[1:] < starts[:-1]).any():
        raise ValueError(_OTHER_COUNT)
    return Names(starts, file.read(length))


def _check_paths(names: Names) -> None:
    # A look at each of ten million takes a minute, and few of them lead anywhere.
    if not any(sign in names.text for sign in (b"..", b":", b"\\")) and not _starts_with_slash(
        names
    ):
        return
    for name in names:
        if not _is_below(name):
            raise ValueError(f"the name {shown(name)} in it leads out of the gallery's folder")


def _starts_with_slash(names: Names) -> bool:
    text = np.frombuffer(names.text, _BYTE)
    for first in range(0, len(names), ROWS):
        starts = names.starts[first : first + ROWS + 1]
        if (text[starts[:-1][starts[1:] > starts[:-1]]] == ord("/")).any():
            return True
    return False


def _check_header(header: Header, layout: Layout) -> None:
    if header.metric not in METRICS:
        raise ValueError("it has another metric")
    if not all(map(_is_text, (header.plan, header.folder, header.config, header.calibration))):
        raise ValueError("a text of its header is not a text")
    if "\0" in header.folder:
        raise ValueError("no path can have the name of its folder")
    if not isinstance(header.probe, list) or not all(map(_is_finite, header.probe)):
        raise ValueError("its probe is not a list of numbers")
    if header.threshold is not None and not _is_finite(header.threshold):
        raise ValueError("its threshold is not a number")
    if len(header.probe) != (layout.dimension if header.config else 0):
        raise ValueError("its probe has another length than its vectors")


def _is_text(value: object) -> bool:
    """Whether it is a text that can be written: bytes of a path that are no UTF-8 can be, too."""
    if not isinstance(value, str):
        return False
    try:
        value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _is_below(name: str) -> bool:
    parts = name.replace(os.sep, "/").split("/")
    return not (os.path.isabs(name) or os.path.splitdrive(name)[0] or os.pardir in parts)


def _is_finite(value: object) -> bool:
    return type(value) is float and math.isfinite(value)


def _read_index(file: BinaryIO, layout: Layout, metric: str) -> Any:
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
    quantizer.add(_read_array(file, layout, "centres"))
    if layout.code_bytes:
        sizes = layout.dimension, layout.lists, layout.code_bytes, 8
        index = faiss.IndexIVFPQ(quantizer, *sizes, measure)
    else:
        index = faiss.IndexIVFFlat(quantizer, layout.dimension, layout.lists, measure)
    _fill_lists(file, layout, index.invlists)
    if layout.code_bytes:
        faiss.copy_array_to_vector(_read_array(file, layout, "parts").ravel(), index.pq.centroids)
        index.precompute_table()
    index.is_trained, index.ntotal, index.nprobe = True, layout.count, layout.probes
    return index


def _fill_lists(file: BinaryIO, layout: Layout, lists: Any) -> None:
    lengths = _read_array(file, layout, "lengths")
    if lengths.min() < 0 or lengths.max() > layout.count or lengths.sum() != layout.count:
        raise ValueError("its lists have other lengths than its entries")
    numbers = _read_array(file, layout, "numbers")
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


def _read_array(file: BinaryIO, layout: Layout, name: str) -> np.ndarray:
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
