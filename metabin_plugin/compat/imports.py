"""Imports of fastreid that fail: names dropped since it was written, modules that are missing."""

from __future__ import annotations

import collections
import collections.abc
import importlib
import importlib.util
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from metabin_plugin.compat.patching import repair
from metabin_plugin.errors import ConfigError


@contextmanager
def collections_mapping() -> Iterator[None]:
    """Supply ``collections.Mapping`` while fastreid is imported, where Python has none."""
    if hasattr(collections, "Mapping"):
        yield
        return
    collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del collections.Mapping  # type: ignore[attr-defined]


@contextmanager
def no_cython_warnings() -> Iterator[None]:
    """Silence "Cython rank evaluation ... is unavailable", and its ROC twin, during the import."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cython (rank|roc) evaluation", category=Warning)
        yield


@contextmanager
def torch_six() -> Iterator[None]:
    """Supply ``torch._six`` while fastreid is imported, where PyTorch has none."""
    if importlib.util.find_spec("torch._six") is not None:
        yield
        return
    module = ModuleType("torch._six")
    module.string_classes = (str, bytes)  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        del sys.modules[module.__name__]


class _Missing(ModuleType):
    """What fastreid's modules hold in the place of Faiss; every use of it is refused."""

    # A default value of a function needs it at the import.
    METRIC_L2 = 1

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _refusal()


@contextmanager
def optional_faiss() -> Iterator[None]:
    """Let fastreid be imported where there is no Faiss."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        # A None there is Python's way to forbid an import.
        before = {name: module for name, module in sys.modules.items() if name == "faiss"}
        sys.modules["faiss"] = _Missing("faiss")
        try:
            yield
        finally:
            del sys.modules["faiss"]
            sys.modules.update(before)
    else:
        yield


def require_faiss() -> Any:
    """The module of Faiss.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise _refusal() from error
    return faiss


def _refusal() -> ConfigError:
    return ConfigError(
        "TEST.RERANK.ENABLED is True, but Faiss, which finds the neighbours, is not installed; run "
        "`pip install faiss-cpu`, or set it to False"
    )


_MODULES = (
    "fastreid.evaluation.testing",
    "fastreid.data.build",
    "fastreid.evaluation.rank",
    "fastreid.evaluation.roc",
)


def import_fastreid() -> None:
    """Import fastreid's modules that need names which Python and PyTorch have since dropped.

    The names exist only during this call: the standard library and PyTorch stay as they were. Faiss
    may be missing.
    """
    with collections_mapping(), torch_six(), optional_faiss(), no_cython_warnings():
        for module in _MODULES:
            importlib.import_module(module)


@contextmanager
def _numpy_bool() -> Iterator[None]:
    if hasattr(np, "bool"):
        yield
        return
    np.bool = np.bool_  # type: ignore
    try:
        yield
    finally:
        del np.bool


def _with_numpy_bool(original: Callable[..., Any]) -> Callable[..., Any]:
    def eval_cuhk03(*args: Any, **kwargs: Any) -> Any:
        with _numpy_bool():
            return original(*args, **kwargs)

    return eval_cuhk03


def repair_numpy_bool() -> None:
    """``eval_cuhk03`` asks for ``np.bool``, which NumPy 1.24 to 1.26 do not have."""
    from fastreid.evaluation import rank

    repair(rank, "eval_cuhk03", _with_numpy_bool)


def _through_numpy(_original: Callable[..., Any]) -> Callable[..., Any]:
    def to_tensor(pic: Any) -> torch.Tensor:
        pixels = np.array(pic)
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8) * 255
        elif pixels.dtype == np.uint16:
            pixels = pixels.astype(np.int32)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
        dtype = torch.float32 if pixels.dtype == np.uint8 else channels_first.dtype
        return channels_first.to(dtype, memory_format=torch.contiguous_format).contiguous()

    return to_tensor


def _through_a_buffer(_original: Callable[..., Any]) -> Callable[..., Any]:
    def serialize_to_tensor(data: Any, group: Any) -> torch.Tensor:
        device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
        return torch.frombuffer(bytearray(pickle.dumps(data)), dtype=torch.uint8).to(device)

    return serialize_to_tensor


def repair_typed_storage() -> None:
    """Images and gathered results pass through ``torch.ByteStorage``, which is on its way out.

    The new ``to_tensor`` also reads 1-bit and 16-bit images, where the old one trips over NumPy 2
    (``np.array(..., copy=False)``).
    """
    from fastreid.data.transforms import functional
    from fastreid.utils import comm

    repair(functional, "to_tensor", _through_numpy)
    repair(comm, "_serialize_to_tensor", _through_a_buffer)
