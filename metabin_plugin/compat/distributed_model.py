"""``DefaultTrainer`` wraps the model for several processes in terms of GPUs and a former name."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel


class AnyDeviceDataParallel(DistributedDataParallel):
    """``DistributedDataParallel`` as fastreid calls it, for a model on any device.

    Args:
        module: The model; on CPU ``device_ids`` is ignored.
        device_ids: This process's GPU.
        broadcast_buffers: Whether each forward pass begins with rank 0's buffers. Where PyTorch
            has ``forward_sync_buffers`` this is passed under that name, so that all processes
            start from rank 0's buffers whatever it is.
        **kwargs: Passed on.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        device_ids: list[int] | None = None,
        broadcast_buffers: bool = True,
        **kwargs: Any,
    ) -> None:
        on_cpu = next(module.parameters()).device.type == "cpu"
        names = inspect.signature(DistributedDataParallel).parameters
        current = "forward_sync_buffers" in names
        kwargs["forward_sync_buffers" if current else "broadcast_buffers"] = broadcast_buffers
        super().__init__(module, device_ids=None if on_cpu else device_ids, **kwargs)


def repair_distributed_model() -> None:
    """``DistributedDataParallel(device_ids=[rank])`` raises ValueError for a model on CPU.

    Its ``broadcast_buffers``, which fastreid passes too, is deprecated.
    """
    from fastreid.engine import defaults

    if defaults.DistributedDataParallel is DistributedDataParallel:
        defaults.DistributedDataParallel = AnyDeviceDataParallel
