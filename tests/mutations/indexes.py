"""Index files with other content than ``index`` writes, with right lengths and checksum."""

from __future__ import annotations

import io
import json
import math
import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from metabin_plugin.search.index_file import (
    BY_CAMERA,
    MAGIC,
    NAMES_AS_JSON,
    Layout,
    Names,
    write_index,
)
from tests.mutations.configs import change_text
from tests.mutations.raw import change_bytes
from tests.mutations.trees import change_tree, plain_values

# The index was what Faiss wrote; a reader of that could be led to other files.
_FORMER = b"metabin-search 1\n"
_LENGTH_BYTES = 8
# Python's own writer does not nest as deeply as a file may.
_DEEP = "a list in a list, and so on"
_LEVELS = 100_000


def change(rng: random.Random, data: bytes, path: Path, outside: Path) -> tuple[bytes, str]:
    """Change the header, the sizes, the names, their lengths or the arrays of the index."""
    header, sizes, names, arrays = _parts(data)
    values = [*plain_values(path, outside), lambda: _DEEP]
    parts = ("header", "sizes", "names", "names", "config", "length", "arrays")
    what = rng.choice((*parts, "kind", "former"))
    said, magic = "", MAGIC
    if what == "header":
        header, said = change_tree(rng, header, values)
    elif what == "sizes":
        sizes, said = change_tree(rng, sizes, values)
    elif what == "names" and rng.random() < 0.5:
        magic = NAMES_AS_JSON
        names, said = change_tree(rng, names, values)
    elif what == "names":
        names, said = change_bytes(rng, _table(names))
    elif what == "config":
        text, said = change_text(rng, header["config"], path, outside)
        header["config"] = text.decode(errors="replace")
    elif what == "arrays":
        arrays, said = change_bytes(rng, arrays)
    elif what == "kind":
        names, sizes, arrays, said = _other_kind(rng, names, arrays)
    elif what == "former":
        arrays, said = _index_of_faiss(rng, _rows(names, arrays), path, outside)
        return _joined(_FORMER, [header, names], arrays, [None] * 2), f"{what} {said}"
    wrong = rng.choice((0, 1, 2**31, 2**62, 2**64 - 1)) if what == "length" else None
    lengths = [wrong, None, None]
    rng.shuffle(lengths)
    if magic == MAGIC and isinstance(names, list):
        names = _table(names)
    return _joined(magic, [header, sizes, names], arrays, lengths), f"{what} {said}"


def change_by_camera(
    rng: random.Random, data: bytes, path: Path, outside: Path
) -> tuple[bytes, str]:
    """Change a part of an index by camera, or call it one of another version."""
    parts, arrays = _split(data, 5)
    values = [*plain_values(path, outside), lambda: _DEEP]
    places = {"header": 0, "sizes": 1, "names": 2, "cameras": 3, "statistics": 4}
    of_cameras = ("cameras", "statistics", "numbers")
    what = rng.choice((*places, *of_cameras, "length", "arrays", "version"))
    said, magic = "", BY_CAMERA
    lengths: list[int | None] = [None] * 5
    if what in ("header", "sizes", "cameras"):
        place = places[what]
        parts[place], said = change_tree(rng, json.loads(parts[place]), values)
    elif what in places:
        parts[places[what]], said = change_bytes(rng, parts[places[what]])
    elif what == "numbers":
        parts[4], said = _other_number(rng, parts[4])
    elif what == "length":
        lengths[0] = rng.choice((0, 1, 2**31, 2**62, 2**64 - 1))
        rng.shuffle(lengths)
    elif what == "arrays":
        arrays, said = change_bytes(rng, arrays)
    else:
        magic = rng.choice((MAGIC, NAMES_AS_JSON, _FORMER))
        said = repr(magic)
    return _joined(magic, parts, arrays, lengths), f"{what} {said}"


def _other_number(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Another number, whole or not, in the place of one of the last ones of eight bytes."""
    number = rng.choice((0, -1, 7, 2**62, 0.0, -1.0, 1e-320, 1e300, 3e38, math.inf, math.nan))
    new = struct.pack("<q" if isinstance(number, int) else "<d", number)
    # Rows of cameras stand in front, of four bytes each.
    place = len(data) - 8 * rng.randint(1, len(data) // 8)
    return data[:place] + new + data[place + 8 :], f"{number} at {place}"


def _split(data: bytes, count: int) -> tuple[list[Any], bytes]:
    """The first parts of a file, and what is behind them."""
    place = len(MAGIC)
    parts: list[Any] = []
    for _ in range(count):
        end = place + _LENGTH_BYTES + int.from_bytes(data[place : place + _LENGTH_BYTES], "little")
        parts.append(data[place + _LENGTH_BYTES : end])
        place = end
    return parts, data[place:-4]


def _parts(data: bytes) -> tuple[Any, Any, list[str], bytes]:
    parts, arrays = _split(data, 3)
    header, sizes = map(json.loads, parts[:2])
    start = _LENGTH_BYTES * (sizes["count"] + 1)
    names = Names(np.frombuffer(parts[2][:start], np.int64), parts[2][start:])
    return header, sizes, list(names), arrays


def _table(names: list[str]) -> bytes:
    table = Names.of(names)
    return table.starts.tobytes() + bytes(table.text)


def _joined(magic: bytes, parts: list[Any], arrays: bytes, lengths: Sequence[int | None]) -> bytes:
    data = magic
    for part, length in zip(parts, lengths, strict=True):
        nested = "[" * _LEVELS + "]" * _LEVELS
        text = part
        if not isinstance(part, bytes):
            text = json.dumps(part).replace(json.dumps(_DEEP), nested).encode()
        size = len(text) if length is None else length
        data += size.to_bytes(_LENGTH_BYTES, "little") + text
    data += arrays
    return data + zlib.crc32(data).to_bytes(4, "little")


def _kept_elsewhere(rows: np.ndarray, folder: Path, file: Path) -> bytes:
    """An index whose lists are in a file of their own, which is somebody else's and shorter."""
    own = str(folder / "")
    own = own + "/" + "x" * (len(str(file)) - len(own) - 1)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(rows.shape[1]), rows.shape[1], 1)
    index.train(rows)
    # By a name, or it would be gone before the index is.
    lists = faiss.OnDiskInvertedLists(1, index.code_size, own)
    index.replace_invlists(lists, False)
    index.add(rows)
    data: bytes = faiss.serialize_index(index).tobytes()
    Path(own).unlink()
    return data.replace(own.encode(), str(file).encode())


def _rows(names: list[str], arrays: bytes) -> np.ndarray:
    """The vectors of a flat index."""
    return np.frombuffer(arrays, np.float32).reshape(len(names), -1)


def _other_kind(
    rng: random.Random, names: list[str], arrays: bytes
) -> tuple[list[str], Any, bytes, str]:
    """The vectors, fifty times, in an index of another kind, whole or damaged."""
    rows = np.repeat(_rows(names, arrays), 50, axis=0)
    kind = rng.choice(("IVF2,Flat", "IVF2,PQ4np", "Flat"))
    index = faiss.index_factory(rows.shape[1], kind)
    index.train(rows)
    index.add(rows)
    written = io.BytesIO()
    write_index(index, written.write)
    data = written.getvalue()
    if rng.random() < 0.7:
        data, _ = change_bytes(rng, data)
    return names * 50, asdict(Layout.of(index)), data, kind


def _index_of_faiss(
    rng: random.Random, rows: np.ndarray, path: Path, outside: Path
) -> tuple[bytes, str]:
    """Vectors of the same number and length, or nearly, as Faiss writes them itself."""
    index = faiss.IndexFlatL2(rows.shape[1])
    kind = rng.choice(("IVF2,Flat", "IVF2,PQ4x4np", "HNSW8", "SQ8", "PCA4,Flat", "IDMap", "OnDisk"))
    if kind == "IDMap":
        other: Any = faiss.IndexIDMap(faiss.IndexFlatL2(index.d))
        ids = rng.choice(([-7, *range(1, len(rows))], [10**12 + n for n in range(len(rows))]))
        other.add_with_ids(rows, np.array(ids, np.int64))
    elif kind == "OnDisk":
        return _kept_elsewhere(rows, path.parent, outside / "notes.txt"), kind
    else:
        copies = np.repeat(rows, 40, axis=0)
        other = faiss.index_factory(index.d, kind)
        other.train(copies)
        other.add(rows if rng.random() < 0.7 else copies)
    data = faiss.serialize_index(other).tobytes()
    if rng.random() < 0.3:
        data, _ = change_bytes(rng, data)
    return data, kind
