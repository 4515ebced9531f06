"""``torch.ByteStorage``: deprecated in PyTorch 2, and a warning in every process that uses it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from metabin_plugin.compat.rebinding import repair


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
