"""Reading files of ``torch.save``: verified first, and never executed."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from metabin_plugin.errors import WeightsError

_ZIP_SIGNATURE = b"PK\x03\x04"
# PyTorch's zip reader takes an entry with this attribute for a folder, thus for empty.
_FOLDER_ATTRIBUTE = 0x10
_REFUSED_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read_weight_file(path: str) -> Any:
    """Verify and read a file written by ``torch.save``.

    Args:
        path: the file.

    Returns:
        Its content: tensors on the CPU, NumPy arrays and numbers, strings, lists, dicts.

    Raises:
        WeightsError: the file is missing, unreadable, empty or damaged, or holds other objects,
            of which none is made.
    """
    check_intact(path)
    return unpickle(path)


def check_intact(path: str) -> None:
    """Compare the content of a file of ``torch.save`` with the checksums in it.

    PyTorch writes a checksum of every tensor but does not look at it when it reads. Files in the
    format before PyTorch 1.6 have none and pass.

    Args:
        path: the file.

    Raises:
        WeightsError: the file is missing, unreadable, empty or damaged.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(_ZIP_SIGNATURE))
        damage = _zip_damage(path) if start == _ZIP_SIGNATURE else None
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror}); give the path of a file saved by torch.save"
        ) from error
    if not start:
        raise WeightsError(f"{path} is empty; give another file, or make it again")
    if damage is not None:
        raise WeightsError(f"{path} is damaged ({damage}); give another file, or make it again")


def agrees_with_checksums(path: str) -> bool:
    """Whether a file has checksums, as PyTorch writes since 1.6, and its content agrees with them.

    Args:
        path: the file.
    """
    try:
        return _zip_damage(path) is None
    except OSError:
        return False


def unpickle(path: str) -> Any:
    """Read a file of ``torch.save`` without running any code that it may hold.

    Args:
        path: the file.

    Returns:
        Its content: tensors on the CPU, NumPy arrays and numbers, strings, lists, dicts.

    Raises:
        WeightsError: the file holds other objects, or is none of ``torch.save``.
    """
    try:
        with numpy_values_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = _REFUSED_GLOBAL.search(str(error))
        if refused is None:
            raise WeightsError(
                f"{path} is damaged, no file of torch.save, or holds other things than tensors, "
                "numbers, strings, lists and dicts; give another file"
            ) from error
        raise WeightsError(
            f"{path} holds a Python object, {refused[1]}, that could run any code, so nothing was "
            "loaded; if you trust where the file comes from, load it once with torch.load(..., "
            "weights_only=False) and save its tensors alone"
        ) from error
    # Whatever a parser says of a file that is none.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path} is damaged or no file of torch.save ({reason}); give another file"
        ) from error


def unreadable_globals(path: str) -> list[str]:
    """Names of the functions and classes for which :func:`unpickle` would refuse a file.

    Args:
        path: an intact file of ``torch.save``.
    """
    with numpy_values_allowed():
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))


def numpy_values_allowed() -> AbstractContextManager[None]:
    """Inside, ``torch.load(weights_only=True)`` also takes arrays and numbers of NumPy.

    Weights converted from other frameworks hold arrays, and fastreid's metrics are numbers.
    """
    rebuild: Any = np.ones(1).__reduce__()[0]
    build_number: Any = np.float64(1).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + "efd?"]
    # The two functions live in numpy.core or numpy._core, after the NumPy that wrote the file.
    named = [
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for function in (rebuild, build_number)
        for core in ("core", "_core")
    ]
    return torch.serialization.safe_globals([np.ndarray, np.dtype, *kinds, *named])


def _zip_damage(path: str) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.testzip()
            if entry is not None:
                return f"wrong checksum of {os.path.basename(entry)}"
            if any(info.external_attr & _FOLDER_ATTRIBUTE for info in archive.infolist()):
                return "a tensor is marked as a folder"
    except OSError:
        raise
    # Headers that are nonsense end in exceptions of many kinds.
    except Exception as error:
        return str(error) or type(error).__name__
    return None
