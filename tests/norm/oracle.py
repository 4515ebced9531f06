"""Batch-instance normalization written as its definition says, one value of (n, c) at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def bin_by_loops(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    instance_weight: Tensor,
    instance_bias: Tensor,
    running: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Eq. 1 by loops; with `running`, the batch half uses those statistics instead of its own."""
    samples = []
    for n in range(x.shape[0]):
        channels = []
        for c in range(x.shape[1]):
            values = x[n, c]
            if running is None:
                batch = x[:, c].flatten()
                mean, variance = batch.mean(), ((batch - batch.mean()) ** 2).mean()
            else:
                mean, variance = running[0][c], running[1][c]
            by_batch = weight[c] * (values - mean) / (variance + eps) ** 0.5 + bias[c]
            centred = values - values.mean()
            by_instance = centred / ((centred**2).mean() + eps) ** 0.5
            by_instance = instance_weight[c] * by_instance + instance_bias[c]
            channels.append(gate[c] * by_batch + (1 - gate[c]) * by_instance)
        samples.append(torch.stack(channels))
    return torch.stack(samples)


def random_arguments(
    shape: tuple[int, int, int, int], seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """x, gate, weight, bias, instance_weight, instance_bias; all of them leaves with gradients."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1]
    x = torch.randn(shape, generator=generator, dtype=dtype) * 2 + 1
    gate = torch.rand(channels, generator=generator, dtype=dtype)
    affine = [1 + torch.randn(channels, generator=generator, dtype=dtype) / 3 for _ in range(4)]
    return [t.requires_grad_() for t in (x, gate, *affine)]
