"""Values of all processes of a distributed run, as differentiable functions of each one's own."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def are_several() -> bool:
    """Whether this process is one of several in the default process group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


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
