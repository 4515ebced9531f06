"""``np.bool``: the alias left NumPy in 1.24; in NumPy 2 the name is a type of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from metabin_plugin.compat.rebinding import repair


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
