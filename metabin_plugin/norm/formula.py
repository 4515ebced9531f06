"""Eq. 1 (paper section 3.2), its statistics and its gradient, in operators of any device.

With instance mean m and variance v of a sample and channel, Eq. 1 is one affine map of the pixels:
``scale * (x - m) + offset``. All that a layer computes beside its passes over the feature map is
arithmetic on values per sample and channel (N, C), and stands here once; the kernels in
``native.py`` and ``triton_form.py`` are tested against it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from metabin_plugin.norm.processes import global_statistics
from metabin_plugin.precision import at_least_float32


class Parameters(NamedTuple):
    """Gate, affine map of the batch half, affine map of the instance half; each (C,)."""

    gate: Tensor
    weight: Tensor
    bias: Tensor
    instance_weight: Tensor
    instance_bias: Tensor


class BatchStatistics(NamedTuple):
    """What the batch half is normalized with.

    Attributes:
        mean: (C,).
        var: biased variance (C,).
        samples: number of samples that they are of.
    """

    mean: Tensor
    var: Tensor
    samples: int | Tensor


def over_map(values: Tensor) -> Tensor:
    """Values (N, C), to be broadcast over a feature map."""
    return values[:, :, None, None]


def instance_statistics(x: Tensor, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every (sample, channel) over its height and width.

    Args:
        x: feature map (N, C, H, W), float32 or float64.
        keepdim: whether height and width remain, as 1.

    Returns:
        Mean and variance, each (N, C) or (N, C, 1, 1).
    """
    # torch.var_mean takes one pass, but that one is several times as slow on CPU.
    mean = x.mean(dim=(2, 3), keepdim=True)
    centred = x - mean
    var = (centred * centred).mean(dim=(2, 3), keepdim=keepdim)
    return mean if keepdim else mean[:, :, 0, 0], var


def batch_statistics(mean: Tensor, var: Tensor, synchronize: bool = False) -> BatchStatistics:
    """Batch statistics from instance statistics, without another pass over the feature map.

    All instances of a batch have the same number of pixels, so the batch mean is the mean of the
    instance means, and the batch variance is the mean of the instance variances plus the variance
    of the instance means. No difference of squares is taken: large means do not cancel.

    Args:
        mean: instance means (N, C).
        var: biased instance variances (N, C).
        synchronize: whether the batch is that of all processes of a distributed run.
    """
    batch_mean = mean.mean(dim=0)
    between = (mean - batch_mean).square().mean(dim=0)
    own = BatchStatistics(batch_mean, var.mean(dim=0) + between, len(mean))
    return BatchStatistics(*global_statistics(*own)) if synchronize else own


def mixed_affine(
    parameters: Parameters, batch: BatchStatistics, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Scale and offset with which ``scale * (x - mean) + offset`` is Eq. 1.

    Taken around the instance mean, nothing of the size of a large mean enters either of them.

    Args:
        parameters: of the layer.
        batch: what the batch half is normalized with.
        mean: instance means (N, C).
        var: biased instance variances (N, C).
        eps: added to both variances before the square root.

    Returns:
        Scale and offset, each (N, C).
    """
    gate, weight, bias, instance_weight, instance_bias = parameters
    batch_scale = gate * weight * torch.rsqrt(batch.var + eps)
    instance_scale = (1 - gate) * instance_weight * torch.rsqrt(var + eps)
    biases = gate * bias + (1 - gate) * instance_bias
    return batch_scale + instance_scale, batch_scale * (mean - batch.mean) + biases


class MapGradient(NamedTuple):
    """Gradient of Eq. 1: by the map ``a * gradient + b * (x - mean) + c``, and by the parameters.

    Attributes:
        a: (N, C).
        b: (N, C).
        c: (N, C).
        parameters: gradients of gate, weight, bias, instance weight, instance bias; each (C,).
    """

    a: Tensor
    b: Tensor
    c: Tensor
    parameters: Parameters


def mixed_affine_gradient(
    total: Tensor,
    products: Tensor,
    parameters: Parameters,
    batch: BatchStatistics,
    mean: Tensor,
    var: Tensor,
    eps: float,
    *,
    size: int,
    training: bool,
) -> MapGradient:
    """Gradient of Eq. 1, given what of it has to be summed over the feature map.

    It is the derivative of :func:`mixed_affine`, and of ``scale * (x - mean) + offset``, by the
    chain rule.

    Args:
        total: sums over height and width of the incoming gradient (N, C).
        products: sums of its products with ``x - mean`` (N, C).
        parameters: of the layer.
        batch: what the batch half was normalized with.
        mean: instance means (N, C).
        var: biased instance variances (N, C).
        eps: added to both variances.
        size: height times width.
        training: whether ``batch`` is of this batch, and so depends on ``x``.
    """
    gate, weight, bias, instance_weight, instance_bias = parameters
    batch_factor, factor = torch.rsqrt(batch.var + eps), torch.rsqrt(var + eps)
    batch_scale = gate * weight * batch_factor
    instance_scale = (1 - gate) * instance_weight * factor
    from_batch_mean = mean - batch.mean
    # Derivatives by the scales of both halves; that of the instance half is per sample.
    d_batch_scale = (products + total * from_batch_mean).sum(0)
    d_instance_scale = (factor * products).sum(0)
    d_bias = total.sum(0)

    # The offset has the batch scale times the mean; both scales have x around the mean.
    d_mean = -instance_scale * total
    d_var = factor.square() * instance_scale * products / -2
    if training:
        d_batch_mean = -batch_scale * d_bias
        d_batch_var = batch_factor.square() * batch_scale * d_batch_scale / -2
        d_mean = d_mean + (d_batch_mean + 2 * d_batch_var * from_batch_mean) / batch.samples
        d_var = d_var + d_batch_var / batch.samples
    return MapGradient(
        batch_scale + instance_scale,
        d_var * (2 / size),
        d_mean / size,
        Parameters(
            gate=weight * batch_factor * d_batch_scale
            - instance_weight * d_instance_scale
            + (bias - instance_bias) * d_bias,
            weight=gate * batch_factor * d_batch_scale,
            bias=gate * d_bias,
            instance_weight=(1 - gate) * d_instance_scale,
            instance_bias=(1 - gate) * d_bias,
        ),
    )


def plain_batch_instance_norm(
    x: Tensor,
    parameters: Parameters,
    running: tuple[Tensor, Tensor] | None,
    eps: float,
    synchronize: bool = False,
) -> tuple[Tensor, BatchStatistics]:
    """Eq. 1 in differentiable operators: to be traced, exported, or differentiated twice.

    Args:
        x: feature map (N, C, H, W).
        parameters: of the layer.
        running: mean and variance (C,) for the batch half; None for those of the batch.
        eps: added to both variances before the square root.
        synchronize: whether the batch is that of all processes of a distributed run.

    Returns:
        The normalized feature map, and what the batch half was normalized with.
    """
    values = at_least_float32(x)
    mean, var = instance_statistics(values)
    if running is None:
        batch = batch_statistics(mean, var, synchronize)
    else:
        running_mean, running_var = (r.to(values.dtype) for r in running)
        batch = BatchStatistics(running_mean, running_var, len(mean))
    parameters = Parameters(*(p.to(values.dtype) for p in parameters))
    scale, offset = mixed_affine(parameters, batch, mean, var, eps)
    y = torch.addcmul(over_map(offset - scale * mean), values, over_map(scale))
    return y.to(x.dtype), batch


def plain_gradient(
    gradient: Tensor,
    x: Tensor,
    parameters: Parameters,
    running: tuple[Tensor, Tensor] | None,
    eps: float,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradient of Eq. 1 that can itself be differentiated.

    Args:
        gradient: of the normalized feature map.
        x: feature map (N, C, H, W).
        parameters: of the layer.
        running: as for :func:`plain_batch_instance_norm`.
        eps: added to both variances before the square root.
        needed: whether the gradients of x and of the five parameters are asked for.

    Returns:
        Gradients of x and of the parameters; None where not asked for.
    """
    y, _ = plain_batch_instance_norm(x, parameters, running, eps)
    inputs = (x, *parameters)
    wanted = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed]
    found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)


@torch.no_grad()
def update_running_statistics_(
    running_mean: Tensor,
    running_var: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    count: int | Tensor,
    momentum: float,
) -> None:
    """Move the running statistics towards those of a batch, in place.

    Args:
        running_mean: running mean (C,), changed in place.
        running_var: running unbiased variance (C,), changed in place.
        batch_mean: mean of the batch (C,).
        batch_var: biased variance of the batch (C,).
        count: number of values per channel in the batch (N * H * W), at least 2.
        momentum: factor of the new value, in [0, 1], as in `torch.nn.functional.batch_norm`.
    """
    unbiased = batch_var * (count / (count - 1))
    running_mean.lerp_(batch_mean.to(running_mean.dtype), momentum)
    running_var.lerp_(unbiased.to(running_var.dtype), momentum)


def count_batch_(layer: nn.BatchNorm2d) -> float:
    """Count a training batch of a layer.

    Args:
        layer: its ``num_batches_tracked`` is increased.

    Returns:
        The factor of the batch's statistics in the running ones, in [0, 1].
    """
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None:
            return 1.0 / float(layer.num_batches_tracked)
    return 0.0 if layer.momentum is None else layer.momentum
