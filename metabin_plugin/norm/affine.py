"""Eq. 1 (paper section 3.2) as one affine map per sample and channel."""

from __future__ import annotations

import torch
from torch import Tensor

# Gate, weight and bias of the batch half, weight and bias of the instance half; each (C,).
Parameters = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def mixed_affine(
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    instance_weight: Tensor,
    instance_bias: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Scale and offset per (sample, channel) with which `scale * (x - mean) + offset` is Eq. 1.

    Taken around the instance mean, nothing of the size of a large mean enters either of them.

    Args:
        gate: balancing parameter rho (C,).
        weight: affine weight of the batch half (C,).
        bias: affine bias of the batch half (C,).
        instance_weight: affine weight of the instance half (C,).
        instance_bias: affine bias of the instance half (C,).
        batch_mean: batch or running mean (C,).
        batch_var: batch or running variance (C,).
        mean: instance means (N, C).
        var: biased instance variances (N, C).
        eps: added to both variances before the square root.

    Returns:
        Scale and offset, each (N, C).
    """
    batch_scale = gate * weight * torch.rsqrt(batch_var + eps)
    instance_scale = (1 - gate) * instance_weight * torch.rsqrt(var + eps)
    biases = gate * bias + (1 - gate) * instance_bias
    return batch_scale + instance_scale, batch_scale * (mean - batch_mean) + biases
