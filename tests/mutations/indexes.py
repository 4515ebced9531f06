"""Index files with other content than ``index`` writes, with right lengths and checksum."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from retrieval.index_file import MAGIC
from tests.mutations.configs import change_text
from tests.mutations.raw import change_bytes
from tests.mutations.trees import change_tree, plain_values

_LENGTH_BYTES = 8
# Python's own writer does not nest as deeply as a file may.
_DEEP = "a list in a list, and so on"
_LEVELS = 100_000


def change(rng: random.Random, data: bytes, path: Path, outside: Path) -> tuple[bytes, str]:
    """Change the header, the names, their lengths or the Faiss index."""
    header, names, vectors = _parts(data)
    values = [*plain_values(path, outside), lambda: _DEEP]
    what = rng.choice(("header", "header", "names", "names", "config", "length", "index", "kind"))
    said = ""
    if what == "header":
        header, said = change_tree(rng, header, values)
    elif what == "names":
        names, said = change_tree(rng, names, values)
    elif what == "config":
        text, said = change_text(rng, header["config"], path, outside)
        header["config"] = text.decode(errors="replace")
    elif what == "index":
        vectors, said = change_bytes(rng, vectors)
    elif what == "kind":
        vectors, said = _other_index(rng, vectors, path, outside)
    lengths = [rng.choice((0, 1, 2**31, 2**62, 2**64 - 1)) if what == "length" else None, None]
    rng.shuffle(lengths)
    return _joined(header, names, vectors, lengths), f"{what} {said}"


def _parts(data: bytes) -> tuple[Any, Any, bytes]:
    place = len(MAGIC)
    parts = []
    for _ in range(2):
        end = place + _LENGTH_BYTES + int.from_bytes(data[place : place + _LENGTH_BYTES], "little")
        parts.append(json.loads(data[place + _LENGTH_BYTES : end]))
        place = end
    return parts[0], parts[1], data[place:-4]


def _joined(header: Any, names: Any, vectors: bytes, lengths: list[int | None]) -> bytes:
    data = MAGIC
    for part, length in zip((header, names), lengths, strict=True):
        nested = "[" * _LEVELS + "]" * _LEVELS
        text = json.dumps(part).replace(json.dumps(_DEEP), nested).encode()
        size = len(text) if length is None else length
        data += size.to_bytes(_LENGTH_BYTES, "little") + text
    data += vectors
    return data + zlib.crc32(data).to_bytes(4, "little")


def _kept_elsewhere(rows: np.ndarray, folder: Path, file: Path) -> bytes:
    """An index whose lists are in a file of their own, which is somebody else's and shorter."""
    own = str(folder / "")
    own = own + "/" + "x" * (len(str(file)) - len(own) - 1)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(rows.shape[1]), rows.shape[1], 1)
    index.train(rows)
    index.replace_invlists(faiss.OnDiskInvertedLists(1, index.code_size, own), False)
    index.add(rows)
    data: bytes = faiss.serialize_index(index).tobytes()
    Path(own).unlink()
    return data.replace(own.encode(), str(file).encode())


def _other_index(
    rng: random.Random, vectors: bytes, path: Path, outside: Path
) -> tuple[bytes, str]:
    """Vectors of the same number and length, or nearly, in another index of Faiss."""
    index = faiss.deserialize_index(np.frombuffer(vectors, np.uint8))
    rows = index.reconstruct_n(0, index.ntotal)
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
