"""``from torch._six import string_classes``: the module left PyTorch in 2.0."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


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
