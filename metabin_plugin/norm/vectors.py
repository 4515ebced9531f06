"""What BIN computes between its passes over the feature map: values per sample and channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metabin_plugin.norm.affine import Parameters, mixed_affine
from metabin_plugin.norm.statistics import (
    Batch,
    BatchStatistics,
    gradients_of_statistics,
    statistics_of,
)


class Vectors(NamedTuple):
    """One way to compute them.

    Attributes:
        map_of: as the function of this name.
        gradients_of_map: as the function of this name.
    """

    map_of: Callable[..., tuple[Tensor, Tensor, BatchStatistics]]
    gradients_of_map: Callable[..., tuple[Tensor, ...]]


def map_of(
    mean: Tensor, var: Tensor, batch: Batch, parameters: Parameters, eps: float
) -> tuple[Tensor, Tensor, BatchStatistics]:
    """Eq. 1 as the map `scale * x + shift`.

    Args:
        mean: instance means (N, C).
        var: biased instance variances (N, C).
        batch: statistics for the batch half.
        parameters: of the layer.
        eps: added to both variances.

    Returns:
        Scale and shift, each (N, C), and the statistics of the batch half.
    """
    statistics = statistics_of(batch, mean, var)
    scale, offset = mixed_affine(*parameters, *statistics[:2], mean, var, eps)
    return scale, offset - scale * mean, statistics


def gradients_of_map(
    total: Tensor,
    products: Tensor,
    mean: Tensor,
    var: Tensor,
    statistics: BatchStatistics,
    batch: Batch,
    parameters: Parameters,
    eps: float,
    size: int,
) -> tuple[Tensor, ...]:
    """Gradient of Eq. 1, given what of it has to be summed over the feature map.

    It is the derivative of `mixed_affine`, and of `scale * (x - mean) + offset`, by the chain rule.
    With respect to `x` it is `a * gradient + b * x + c`.

    Args:
        total: sums over height and width of the incoming gradient (N, C).
        products: sums of its products with `x - mean` (N, C).
        mean: instance means (N, C).
        var: biased instance variances (N, C).
        statistics: of the batch half, as `map_of` returned them.
        batch: where these came from.
        parameters: of the layer.
        eps: added to both variances.
        size: height times width.

    Returns:
        a, b and c, each (N, C), and the gradients of the parameters, each (C,).
    """
    gate, weight, bias, instance_weight, instance_bias = parameters
    batch_mean, batch_var, samples = statistics
    batch_factor, factor = torch.rsqrt(batch_var + eps), torch.rsqrt(var + eps)
    batch_scale = gate * weight * batch_factor
    instance_scale = (1 - gate) * instance_weight * factor
    from_batch_mean = mean - batch_mean
    # Derivatives by the scales of both halves; that of the instance half is per sample.
    d_batch_scale = (products + total * from_batch_mean).sum(0)
    d_instance_scale = (factor * products).sum(0)
    d_bias = total.sum(0)

    # The offset has the batch scale times the mean; both scales have x around the mean.
    d_mean = -instance_scale * total
    d_var = factor.square() * instance_scale * products / -2
    if callable(batch):
        d_batch_mean, d_batch_var = gradients_of_statistics(
            batch,
            -batch_scale * d_bias,
            batch_factor.square() * batch_scale * d_batch_scale / -2,
        )
        d_mean = d_mean + (d_batch_mean + 2 * d_batch_var * from_batch_mean) / samples
        d_var = d_var + d_batch_var / samples
    slope = d_var * (2 / size)
    return (
        batch_scale + instance_scale,
        slope,
        d_mean / size - slope * mean,
        weight * batch_factor * d_batch_scale
        - instance_weight * d_instance_scale
        + (bias - instance_bias) * d_bias,
        gate * batch_factor * d_batch_scale,
        gate * d_bias,
        (1 - gate) * d_instance_scale,
        (1 - gate) * d_bias,
    )


EAGER_VECTORS = Vectors(map_of, gradients_of_map)
