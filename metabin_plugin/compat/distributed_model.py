"""``DefaultTrainer`` names a GPU when it wraps the model for several processes, on CPU too."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel


class AnyDeviceDataParallel(DistributedDataParallel):
    """``DistributedDataParallel`` that ignores ``device_ids`` for a model on CPU."""

    def __init__(
        self, module: torch.nn.Module, device_ids: list[int] | None = None, **kwargs: Any
    ) -> None:
        on_cpu = next(module.parameters()).device.type == "cpu"
        super().__init__(module, device_ids=None if on_cpu else device_ids, **kwargs)


def repair_distributed_model() -> None:
    """``DistributedDataParallel(device_ids=[rank])`` raises ValueError for a model on CPU."""
    from fastreid.engine import defaults

    if defaults.DistributedDataParallel is DistributedDataParallel:
        defaults.DistributedDataParallel = AnyDeviceDataParallel
