"""BIN in differentiable operators alone: to be traced, exported, or differentiated twice."""

from __future__ import annotations

import torch
from torch import Tensor

from metabin_plugin.norm.affine import mixed_affine
from metabin_plugin.norm.passes import over_map
from metabin_plugin.norm.statistics import (
    Batch,
    BatchStatistics,
    instance_statistics,
    statistics_of,
)
from metabin_plugin.precision import at_least_float32


def plain_batch_instance_norm(
    x: Tensor, *parameters: Tensor, batch: Batch, eps: float
) -> tuple[Tensor, BatchStatistics]:
    """Eq. 1.

    Args:
        x: feature map (N, C, H, W).
        *parameters: gate, weight, bias, instance weight, instance bias; each (C,).
        batch: statistics for the batch half.
        eps: added to both variances before the square root.

    Returns:
        The normalized feature map, and the statistics of the batch half.
    """
    values = at_least_float32(x)
    mean, var = instance_statistics(values)
    statistics = statistics_of(batch, mean, var)
    gate, weight, bias, instance_weight, instance_bias = (p.to(values.dtype) for p in parameters)
    scale, offset = mixed_affine(
        gate, weight, bias, instance_weight, instance_bias, *statistics[:2], mean, var, eps
    )
    y = torch.addcmul(over_map(offset - scale * mean), values, over_map(scale))
    return y.to(x.dtype), statistics
