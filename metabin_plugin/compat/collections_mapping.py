"""``from collections import Mapping``: the name left ``collections`` in Python 3.10."""

from __future__ import annotations

import collections
import collections.abc
from collections.abc import Iterator
from contextlib import contextmanager


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
