"""The import of fastreid, and Faiss, which may be missing."""

from __future__ import annotations

import collections
import collections.abc
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from metabin_plugin.compat.patching import patch
from metabin_plugin.errors import ConfigError


@patch(
    "fastreid.evaluation.testing",
    "fastreid.data.build",
    fault="It imports ``Mapping`` from ``collections``, which Python 3.10 has dropped.",
    unless="Python has that name.",
)
@contextmanager
def collections_mapping() -> Iterator[None]:
    """Supply ``collections.Mapping`` during the import; then the standard library is as before."""
    if hasattr(collections, "Mapping"):
        yield
        return
    collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del collections.Mapping  # type: ignore[attr-defined]


@patch(
    "fastreid.data.build",
    fault="It imports ``string_classes`` from ``torch._six``, which PyTorch 2.0 has dropped.",
    unless="PyTorch has that module.",
)
@contextmanager
def torch_six() -> Iterator[None]:
    """Supply ``torch._six`` during the import; then PyTorch is as before."""
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


@patch(
    "fastreid.evaluation.rank",
    "fastreid.evaluation.roc",
    fault="It warns that its Cython extension is not compiled, which the plugin does not need.",
    unless="that extension has been compiled.",
)
@contextmanager
def no_cython_warnings() -> Iterator[None]:
    """Silence these two warnings during the import."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cython (rank|roc) evaluation", category=Warning)
        yield


class _Later(ModuleType):
    """A module that is imported when something of it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


@patch(
    "fastreid.evaluation.reid_evaluation",
    fault="It imports scikit-learn, and SciPy's statistics with it, for the curve of "
    "``TEST.ROC.ENABLED`` alone; a fifth of the time in which a command starts.",
    unless="scikit-learn is imported already.",
)
@contextmanager
def later_sklearn() -> Iterator[None]:
    """Let the module hold a ``sklearn.metrics`` that is imported when it is used."""
    if "sklearn" in sys.modules:
        yield
        return
    package = ModuleType("sklearn")
    # PyTorch looks whether there is such a package.
    package.__spec__ = importlib.util.find_spec("sklearn")
    package.metrics = _Later("sklearn.metrics")  # type: ignore[attr-defined]
    sys.modules[package.__name__] = package
    try:
        yield
    finally:
        del sys.modules[package.__name__]


class _Missing(ModuleType):
    """What fastreid's modules hold in the place of Faiss; every use of it is refused."""

    # A default value of a function needs it at the import.
    METRIC_L2 = 1

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _refusal()


@patch(
    "fastreid.utils.compute_dist",
    "fastreid.evaluation.roc",
    fault="Without Faiss it cannot be imported, nor can what trains. Only re-ranking needs it.",
    unless="Faiss is installed.",
)
@contextmanager
def optional_faiss() -> Iterator[None]:
    """Let the import find a stand-in, which refuses every use with a sentence."""
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
