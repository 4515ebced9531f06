"""The base step's losses are computed in half precision under autocast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from metabin_plugin.compat.rebinding import repair
from metabin_plugin.precision import at_least_float32


def _widened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _widened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_widened(item) for item in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return at_least_float32(value)
    return value


def _in_float32(original: Callable[..., Any]) -> Callable[..., Any]:
    def losses(self: Any, *outputs: Any) -> Any:
        with torch.autocast(self.device.type, enabled=False):
            return original(self, *map(_widened, outputs))

    return losses


def repair_loss_precision() -> None:
    """Under autocast the matrix product in the triplet loss, and on CPU the softmax, are half.

    The squared norms of a distance then cancel, or overflow in float16, and a loss has three
    digits. The losses get float32 copies of half-precision outputs and compute without autocast.
    """
    from fastreid.modeling.meta_arch import distiller, mgn, moco
    from fastreid.modeling.meta_arch.baseline import Baseline

    for architecture in (Baseline, mgn.MGN, moco.MoCo, distiller.Distiller):
        repair(architecture, "losses", _in_float32)
