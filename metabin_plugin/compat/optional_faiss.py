"""fastreid imports Faiss wherever it is used or not: re-ranking alone needs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from metabin_plugin.errors import ConfigError


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
