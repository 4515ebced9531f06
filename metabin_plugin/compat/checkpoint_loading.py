"""``torch.load`` refuses NumPy values since PyTorch 2.6, and fastreid checkpoints may hold them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from metabin_plugin.compat.rebinding import repair
from metabin_plugin.errors import WeightsError


def _numpy_globals() -> list[Any]:
    rebuild: Any = np.ones(1).__reduce__()[0]
    build_number: Any = np.float64(1).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + "efd?"]
    # The two functions live in numpy.core or numpy._core, after the NumPy that wrote the file.
    named = [
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for function in (rebuild, build_number)
        for core in ("core", "_core")
    ]
    return [np.ndarray, np.dtype, *kinds, *named]


def _with_numpy(original: Callable[..., Any]) -> Callable[..., Any]:
    def load_file(self: Any, f: str) -> Any:
        try:
            with torch.serialization.safe_globals(_numpy_globals()):
                return original(self, f)
        except pickle.UnpicklingError as error:
            raise WeightsError(
                f"{f} holds Python objects that PyTorch does not load unless told to, or is no "
                "checkpoint; if you trust where it comes from, load it once with "
                "torch.load(..., weights_only=False) and save its 'model' entry alone."
            ) from error

    return load_file


def repair_checkpoint_loading() -> None:
    """``Checkpointer`` cannot load weights or metrics that were saved as NumPy values.

    Arrays and numbers of NumPy are allowed for the one call; anything else stays refused, as a
    pickle from an unknown source can run any code.
    """
    from fastreid.utils.checkpoint import Checkpointer

    # PyTorch that lacks it loads any pickle by default.
    if hasattr(torch.serialization, "safe_globals"):
        repair(Checkpointer, "_load_file", _with_numpy)
