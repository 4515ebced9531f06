"""Eq. 1 (paper section 3.2), its statistics and its gradient, in operators of any device.

With instance mean m and variance v of a sample and channel, Eq. 1 is one affine map of the pixels:
``scale * (x - m) + offset``. All that a layer computes beside its passes over the feature map is
arithmetic on values per sample and channel (N, C), and stands here once; the kernels in
``native.py`` and ``triton_kernels.py`` are tested against it.

Everywhere ``mean`` and ``var`` are those of the instances, (N, C), variances are biased, ``eps`` is
added to a variance before the square root, and ``running`` are the mean and variance (C,) that the
batch half is normalized with in evaluation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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
    """What the batch half is normalized with: mean (C,), variance (C,), number of samples."""

    mean: Tensor
    var: Tensor
    samples: int | Tensor


def over_map(values: Tensor) -> Tensor:
    """Values (N, C), to be broadcast over a feature map."""
    return values[:, :, None, None]


def instance_statistics(x: Tensor, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and variance over height and width, (N, C), or (N, C, 1, 1) with ``keepdim``.

    Args:
        x: feature map (N, C, H, W), float32 or float64.
        keepdim: whether height and width remain.
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
    ``synchronize`` takes the batches of all processes for one.
    """
    batch_mean = mean.mean(dim=0)
    between = (mean - batch_mean).square().mean(dim=0)
    own = BatchStatistics(batch_mean, var.mean(dim=0) + between, len(mean))
    return BatchStatistics(*global_statistics(*own)) if synchronize else own


def mixed_affine(
    parameters: Parameters, batch: BatchStatistics, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Scale and offset (N, C) with which ``scale * (x - mean) + offset`` is Eq. 1.

    Taken around the instance mean, nothing of the size of a large mean enters either of them.
    """
    gate, weight, bias, instance_weight, instance_bias = parameters
    batch_scale = gate * weight * torch.rsqrt(batch.var + eps)
    instance_scale = (1 - gate) * instance_weight * torch.rsqrt(var + eps)
    biases = gate * bias + (1 - gate) * instance_bias
    return batch_scale + instance_scale, batch_scale * (mean - batch.mean) + biases


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
) -> tuple[tuple[Tensor, Tensor, Tensor], Parameters]:
    """Gradient of Eq. 1, given what of it has to be summed over the feature map.

    It is the derivative of :func:`mixed_affine`, and of ``scale * (x - mean) + offset``, by the
    chain rule.

    Args:
        total: sums over height and width of the incoming gradient (N, C).
        products: sums of its products with ``x - mean`` (N, C).
        parameters: of the layer.
        batch: what the batch half was normalized with.
        mean: see the module, as for ``var`` and ``eps``.
        var: of the instances.
        eps: added to both variances.
        size: height times width.
        training: whether ``batch`` is of this batch, and so depends on ``x``.

    Returns:
        a, b and c, each (N, C), with which ``a * gradient + b * (x - mean) + c`` is the gradient of
        the map; and those of the parameters.
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
    d_gate = weight * batch_factor * d_batch_scale - instance_weight * d_instance_scale
    d_parameters = Parameters(
        gate=d_gate + (bias - instance_bias) * d_bias,
        weight=gate * batch_factor * d_batch_scale,
        bias=gate * d_bias,
        instance_weight=(1 - gate) * d_instance_scale,
        instance_bias=(1 - gate) * d_bias,
    )
    return (batch_scale + instance_scale, d_var * (2 / size), d_mean / size), d_parameters


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
        running: see the module; None for the statistics of the batch.
        eps: see the module.
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
    """Gradients of Eq. 1 by x and the parameters that can themselves be differentiated.

    Those that are not ``needed`` are None; the other arguments are those of
    :func:`plain_batch_instance_norm`, and the gradient of its feature map.
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
    """Move the running statistics (C,) towards those of a batch of ``count`` values, in place.

    As in `torch.nn.functional.batch_norm`, the running variance is unbiased, the batch's is not,
    and ``momentum``, in [0, 1], is the factor of the new value.
    """
    unbiased = batch_var * (count / (count - 1))
    running_mean.lerp_(batch_mean.to(running_mean.dtype), momentum)
    running_var.lerp_(unbiased.to(running_var.dtype), momentum)
