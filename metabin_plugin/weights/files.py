"""Reading files of ``torch.save``: verified, bounded by their size, and never executed."""

from __future__ import annotations

import io
import logging
import os
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor, nn

from metabin_plugin.errors import WeightsError
from metabin_plugin.files import open_regular, reason
from metabin_plugin.text import shown
from metabin_plugin.weights.pickles import DTYPES, RefusedObjectError, overlaps, read_pickle

logger = logging.getLogger(__name__)

_ZIP_SIGNATURE = b"PK\x03\x04"
# PyTorch's zip reader takes an entry with this attribute for a folder, thus for empty.
_FOLDER_ATTRIBUTE = 0x10
_CHUNK = 1 << 24
# Of the format before PyTorch 1.6: a number by which it is known, and its version.
_OLD_MAGIC, _OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001
_PLAIN = (type(None), bool, int, float, str)


class _DamageError(ValueError):
    """The content is not what was once written."""


def read_weight_file(path: str, *, with_checksums: bool = False) -> Any:
    """Verify and read a file written by ``torch.save``.

    PyTorch writes a checksum of every tensor but does not look at it when it reads; here they are
    compared. Files in the format before PyTorch 1.6 have none: of these a damaged one may be read
    without an error, which the log says. No more memory is taken than the file is large.

    Args:
        path: the file.
        with_checksums: whether to refuse a file that has none.

    Returns:
        Its content: tensors on the CPU, also where the file has arrays of NumPy; numbers, strings,
        None, lists, tuples, dicts, ``OrderedDict`` and ``Counter``.

    Raises:
        WeightsError: the file is missing, unreadable, empty or damaged, or holds other objects, of
            which none is made.
    """
    name = shown(path)
    try:
        with open_regular(path) as file:
            start = file.read(len(_ZIP_SIGNATURE))
            file.seek(0)
            if not start:
                raise WeightsError(f"{name} is empty; give another file, or make it again")
            if start == _ZIP_SIGNATURE:
                return _read_zip(file)
            if with_checksums:
                raise WeightsError(
                    f"{name} is damaged, or in the format before PyTorch 1.6, which has no "
                    "checksums by which damage could be seen; give another file, or load it once "
                    "with torch.load and save it again by torch.save"
                )
            content = _read_old(file)
    except (WeightsError, MemoryError):
        raise
    except OSError as error:
        raise WeightsError(
            f"{name} cannot be read ({reason(error)}); give the path of a file saved by torch.save"
        ) from error
    except RefusedObjectError as error:
        raise WeightsError(
            f"{name} holds a Python object, {shown(error.name)}, that could run any code, so "
            "nothing was loaded; if you trust where the file comes from, load it once with "
            "torch.load(..., weights_only=False) and save its tensors alone"
        ) from error
    except _DamageError as error:
        raise WeightsError(
            f"{name} is damaged ({error}); give another file, or make it again"
        ) from error
    # Whatever a parser says of a file that is not one.
    except Exception as error:
        said = shown(reason(error))
        raise WeightsError(
            f"{name} is damaged or not a file of torch.save ({said}); give another file, or make "
            "it again"
        ) from error
    logger.warning(
        "%s is in the format before PyTorch 1.6, which has no checksums: damage in it cannot be "
        "seen",
        name,
    )
    return content


def unreadable_values(content: Any, where: str = "") -> list[str]:
    """What :func:`read_weight_file` would refuse if ``torch.save`` wrote it.

    Args:
        content: plain values, nested.
        where: name of the content.

    Returns:
        Name and type of every such entry.
    """
    if type(content) in _PLAIN or (isinstance(content, np.generic) and content.dtype.kind in "bif"):
        return []
    if isinstance(content, Tensor):
        return [] if _is_plain_tensor(content) else [f"{where} ({_described(content)})"]
    if isinstance(content, Mapping):
        entries: Any = content.items()
    elif type(content) in (list, tuple):
        entries = enumerate(content)
    else:
        return [f"{where} ({type(content).__module__}.{type(content).__qualname__})"]
    prefix = f"{where}." if where else ""
    return [found for key, part in entries for found in unreadable_values(part, f"{prefix}{key}")]


def _is_plain_tensor(tensor: Tensor) -> bool:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type == "meta":
        return False
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPES.values():
        return False
    return not overlaps(tensor.shape, tensor.stride())


def _described(tensor: Tensor) -> str:
    return f"a {type(tensor).__name__} of {tensor.dtype}, {tensor.layout}, {tensor.device}"


def _read_zip(file: BinaryIO) -> Any:
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_entries(entries, size)
        by_name = {entry.filename: entry for entry in entries}
        pickles = [name for name in by_name if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} parts data.pkl, not one")
        root = pickles[0].removesuffix("data.pkl")
        order = by_name.get(f"{root}byteorder")
        if order is not None and bytes(_content(archive, order).numpy()) != b"little":
            raise ValueError("saved on a machine with another order of bytes")

        read = {pickles[0]}

        def storage(key: str, nbytes: int) -> Tensor:
            name = f"{root}data/{key}"
            entry = by_name.get(name)
            read.add(name)
            if entry is None or entry.file_size != nbytes:
                raise ValueError(f"the numbers of tensor data {shown(key)} are not there")
            return _content(archive, entry)

        described = _content(archive, by_name[pickles[0]])
        values = read_pickle(io.BytesIO(described.numpy().tobytes())).values(storage)
        # What no tensor refers to can be damaged too.
        for name in by_name.keys() - read:
            _content(archive, by_name[name])
        return values


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    # PyTorch compresses nothing, so what is unfolded is never larger than the file.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("compressed, which torch.save never does")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its parts are larger than the file")
    if any(entry.external_attr & _FOLDER_ATTRIBUTE for entry in entries):
        raise ValueError("a tensor is marked as a folder")
    # PyTorch does not tell capital letters from small ones.
    if len({entry.filename.casefold() for entry in entries}) < len(entries):
        raise ValueError("two parts of one name")


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    """The bytes of an entry that agree with its checksum."""
    content = torch.empty(entry.file_size, dtype=torch.uint8)
    try:
        with archive.open(entry) as source:
            _fill(content, source)
            # The checksum is compared where the end is met.
            source.read(1)
    except zipfile.BadZipFile as error:
        if "CRC" not in str(error):
            raise
        part = shown(os.path.basename(entry.filename))
        raise _DamageError(f"wrong checksum of {part}") from error
    return content


def _fill(content: Tensor, source: Any) -> None:
    view = memoryview(cast("Any", content.numpy()))
    for start in range(0, len(view), _CHUNK):
        part = source.read(min(_CHUNK, len(view) - start))
        view[start : start + len(part)] = part
        if len(part) < min(_CHUNK, len(view) - start):
            raise _DamageError("it ends too early")


def _read_old(file: BinaryIO) -> Any:
    """Read the format before PyTorch 1.6: five pickles, then the numbers of each storage."""
    size = os.fstat(file.fileno()).st_size
    if [read_pickle(file).marks for _ in range(2)] != [_OLD_MAGIC, _OLD_VERSION]:
        raise ValueError("it does not begin as files of torch.save do")
    machine, content = (read_pickle(file) for _ in range(2))
    match machine.marks:
        case {"little_endian": True}:
            pass
        case _:
            raise ValueError("saved on a machine with another order of bytes")
    raw: dict[str, Tensor] = {}
    for key in read_pickle(file).marks:
        storage = content.storages[key]
        nbytes = storage.numel * storage.dtype.itemsize
        if int.from_bytes(file.read(8), "little") != storage.numel or nbytes > size:
            raise ValueError("its parts are larger than the file")
        raw[key] = torch.empty(nbytes, dtype=torch.uint8)
        _fill(raw[key], file)
    return content.values(lambda key, _: raw[key])
