"""Values of all processes of a distributed run, as differentiable functions of each one's own."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def are_several() -> bool:
    """Whether this process is one of several in the default process group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of rank 0, in place; all processes must call it.

    Each process moves its running statistics by its own share of the batches (without
    ``METABIN.SYNC_STATS``), and rank 0's are those of the checkpoints. An evaluation, of which each
    process does a part, is thus that of the network that is saved. Training in batch statistics
    does not read them.

    Args:
        model: network, wrapped or not; the same in all processes but for the buffers.
    """
    if are_several():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def gather(values: Tensor) -> Tensor:
    """The tensors of all processes, stacked; without a process group, that of this one alone.

    Differentiable any number of times, as long as all processes differentiate alike: the gradient
    is that of the sum of what all of them compute. A loss that every process computes from gathered
    values therefore has, in the mean over the processes, the gradient of that loss.

    Args:
        values: tensor of the same shape and dtype on all processes.

    Returns:
        Tensor (processes, *shape), the same on all of them.
    """
    if not are_several():
        return values[None]
    slots = [torch.zeros_like(values) for _ in range(dist.get_world_size())]
    slots[dist.get_rank()] = values
    return _Sum.apply(torch.stack(slots))


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, one process after the other; differentiable as :func:`gather`.

    Args:
        rows: tensor (N, ...), with the same N on all processes.

    Returns:
        Tensor (processes * N, ...).
    """
    return gather(rows).flatten(0, 1)


class _Sum(torch.autograd.Function):
    """Sum over the processes, which is its own adjoint; torch's differentiable one is deprecated.

    The sum with zeros takes the place of an ``all_gather``, whose adjoint gloo does not have.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)
