"""The file of an index: what it describes, what its rows are, and the Faiss index itself.

A line of its own, the length of a JSON header (8 bytes, little endian) and the header, the length
and JSON list of names, the index as Faiss writes it, and a CRC-32 of all that (4 bytes). Reading
it runs no code that the file brings along.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from metabin_plugin.files import reason
from retrieval.engine import METRICS
from retrieval.faults import SearchError, load_faiss, write_file

MAGIC = b"metabin-search 1\n"
_CRC_BYTES = 4
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
    faiss = load_faiss()

    def write(file: BinaryIO) -> None:
        summed = _Summed(file)
        summed.write(MAGIC)
        for part in (asdict(gallery.header), list(gallery.names)):
            text = json.dumps(part).encode()
            summed.write(len(text).to_bytes(8, "little"))
            summed.write(text)
        faiss.write_index(gallery.index, faiss.PyCallbackIOWriter(summed.write, _CHUNK))
        file.write(summed.crc.to_bytes(_CRC_BYTES, "little"))

    write_file(path, write)


def read_gallery(path: Path) -> Gallery:
    """Read an index that ``write_gallery`` wrote.

    Raises:
        SearchError: there is none, it is of something else, or it is damaged.
    """
    faiss = load_faiss()
    try:
        with open(path, "rb") as file:
            _verify(file, path)
            file.seek(len(MAGIC))
            header, names = _header(_json(file)), _json(file)
            index = faiss.read_index(faiss.PyCallbackIOReader(file.read, _CHUNK))
    except OSError as error:
        raise SearchError(
            f"{path} cannot be read ({reason(error)}); give the file that `index` wrote"
        ) from error
    # Faiss has no type of its own for what it cannot parse.
    except (RuntimeError, TypeError, ValueError) as error:
        raise SearchError(f"{path} was not written by `index`; make it anew") from error
    if not isinstance(names, list) or len(names) != index.ntotal:
        raise SearchError(f"{path} has not one name for each of its rows; make it anew")
    return Gallery(header, names, index)


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

    def write(self, data: bytes) -> int:
        self.crc = zlib.crc32(data, self.crc)
        return self._file.write(data)


def _verify(file: BinaryIO, path: Path) -> None:
    if file.read(len(MAGIC)) != MAGIC:
        raise SearchError(f"{path} is no index of this tool; give the file that `index` wrote")
    crc, last = zlib.crc32(MAGIC), b""
    while chunk := file.read(_CHUNK):
        data = last + chunk
        crc, last = zlib.crc32(data[:-_CRC_BYTES], crc), data[-_CRC_BYTES:]
    if crc != int.from_bytes(last, "little"):
        raise SearchError(f"{path} is damaged or cut short; make it anew")


def _json(file: BinaryIO) -> Any:
    return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def _header(content: Any) -> Header:
    header = Header(**content)
    if header.metric not in METRICS or not all(
        isinstance(getattr(header, field.name), (str, list)) for field in fields(header)
    ):
        raise ValueError("a value of the header has another type or meaning")
    return header
