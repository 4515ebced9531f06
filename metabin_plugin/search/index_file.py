"""The file of an index: what it describes, what its rows are, and the Faiss index itself.

A line of its own; three times the length of a JSON text (8 bytes, little endian) and the text, of
the header, the sizes of the index and the list of names; the arrays of the index; and a CRC-32 of
all that (4 bytes). A file may come from anyone: it runs no code and opens no other file, and all
that it says of itself is checked.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from metabin_plugin.files import open_regular, reason
from metabin_plugin.search.engine import METRICS
from metabin_plugin.search.faults import SearchError, write_file
from metabin_plugin.search.stored_index import Layout, read_index, write_index
from metabin_plugin.text import shown

MAGIC = b"metabin-search 2\n"
_FORMER = b"metabin-search 1\n"
_CRC_BYTES = 4
_LENGTH_BYTES = 8
_CHUNK = 1 << 20
# Of a feature's length; checkpoints of one short training differed by 0.4.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Header:
    """What an index describes.

    Attributes:
        metric: "cosine" or "euclidean".
        plan: how it was built, in words.
        folder: where the images of the names are; "" if the names are not of images.
        config: the config of the network, YAML; "" if the features came in a file.
        probe: the network's feature of a fixed image, by which it is known again.
    """

    metric: str
    plan: str = ""
    folder: str = ""
    config: str = ""
    probe: Sequence[float] = ()


@dataclass(frozen=True)
class Gallery:
    """An index and what its rows are.

    Attributes:
        header: what it describes.
        names: of each row: the path of an image, relative to ``header.folder``, or any identifier.
        index: the Faiss index.
    """

    header: Header
    names: Sequence[str]
    index: Any

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
        summed = _Summed(file)
        summed.write(MAGIC)
        layout = asdict(Layout.of(gallery.index))
        for part in (asdict(gallery.header), layout, list(gallery.names)):
            text = json.dumps(part).encode()
            summed.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
            summed.write(text)
        write_index(gallery.index, summed.write)
        file.write(summed.crc.to_bytes(_CRC_BYTES, "little"))

    write_file(path, write)


def read_gallery(path: Path) -> Gallery:
    """Read an index that ``write_gallery`` wrote.

    Raises:
        SearchError: there is none, it is of something else, or it is damaged.
    """
    try:
        with open_regular(path) as file:
            _verify(file, path)
            file.seek(len(MAGIC))
            return _read(file)
    except OSError as error:
        raise SearchError(
            f"{path} cannot be read ({reason(error)}); give the file that `index` wrote"
        ) from error
    # JSON that is no JSON, or has other values or more levels than ours.
    except (TypeError, ValueError, RecursionError) as error:
        raise SearchError(
            f"{path} was not written by `index` ({shown(str(error))}); make it anew"
        ) from error


def _read(file: BinaryIO) -> Gallery:
    header, layout = Header(**_json(file)), Layout.checked(_json(file))
    names = _json(file)
    left = os.fstat(file.fileno()).st_size - file.tell() - _CRC_BYTES
    if layout.size != left:
        raise ValueError(f"its index takes {layout.size:,} bytes, and it has {left:,}")
    _check_names(names, header, layout)
    _check_header(header, layout)
    return Gallery(header, names, read_index(file, layout, header.metric))


def _json(file: BinaryIO) -> Any:
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > os.fstat(file.fileno()).st_size - file.tell():
        raise ValueError("a length in it goes beyond its end")
    return json.loads(file.read(length))


def _check_names(names: Any, header: Header, layout: Layout) -> None:
    if not isinstance(names, list) or len(names) != layout.count:
        raise ValueError("it has not one name for each of its rows")
    for name in names:
        if not _is_text(name):
            raise ValueError("a name in it is not a text")
        if header.folder and not _is_below(name):
            raise ValueError(f"the name {shown(name)} in it leads out of the gallery's folder")


def _check_header(header: Header, layout: Layout) -> None:
    if header.metric not in METRICS:
        raise ValueError("it has another metric")
    if not all(map(_is_text, (header.plan, header.folder, header.config))):
        raise ValueError("a text of its header is not a text")
    if not isinstance(header.probe, list) or not all(map(_is_finite, header.probe)):
        raise ValueError("its probe is not a list of numbers")
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


class _Summed:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.crc = 0

    def write(self, data: bytes | memoryview) -> int:
        self.crc = zlib.crc32(data, self.crc)
        return self._file.write(data)


def _verify(file: BinaryIO, path: Path) -> None:
    start = file.read(len(MAGIC))
    if start == _FORMER:
        raise SearchError(f"{path} was written by a former version; index the gallery anew")
    if start != MAGIC:
        raise SearchError(f"{path} is no index of this tool; give the file that `index` wrote")
    crc, last = zlib.crc32(MAGIC), b""
    while chunk := file.read(_CHUNK):
        data = last + chunk
        crc, last = zlib.crc32(data[:-_CRC_BYTES], crc), data[-_CRC_BYTES:]
    if crc != int.from_bytes(last, "little"):
        raise SearchError(f"{path} is damaged or cut short; make it anew")
