"""Eq. 1 (paper section 3.2), its statistics and its gradient, in operators of any device.

With instance mean m and variance v of a sample and channel, Eq. 1 is one affine map of the pixels:
``scale * x + shift``. All that a layer computes beside its passes over the feature map is
arithmetic on values per sample and channel (N, C), and stands here once; the kernels in
``native.py`` and ``triton_kernels.py`` are tested against it.

Everywhere ``mean`` and ``var`` are those of the instances, (N, C), variances are biased, ``eps`` is
added to a variance before the square root, and ``running`` are the mean and variance (C,) that the
batch half is normalized with in evaluation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabin_plugin.precision import at_least_float32
from metabin_plugin.processes import gather


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


def clip_(gates: list[Tensor]) -> None:
    """Clip gates to [0, 1], in place (Eq. 9 and 10).

    Args:
        gates: tensors that require no gradient.
    """
    if gates:
        torch._foreach_clamp_min_(gates, 0.0)
        torch._foreach_clamp_max_(gates, 1.0)


def over_map(values: Tensor) -> Tensor:
    """Values (N, C), to be broadcast over a feature map."""
    return values[:, :, None, None]


def dense(x: Tensor) -> Tensor:
    """The map in one of the two memory formats, channels_last if it is in neither."""
    return x if x.is_contiguous() else x.contiguous(memory_format=torch.channels_last)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The memory format of a dense feature map."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def instance_statistics(x: Tensor, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and variance over height and width, (N, C), or (N, C, 1, 1) with ``keepdim``.

    ``x`` is float32 or float64.
    """
    # torch.var_mean takes one pass, but that one is several times as slow on CPU.
    mean = x.mean(dim=(2, 3), keepdim=True)
    centred = x - mean
    var = (centred * centred).mean(dim=(2, 3), keepdim=keepdim)
    return mean if keepdim else mean[:, :, 0, 0], var


def batch_statistics(
    mean: Tensor,
    var: Tensor,
    running: tuple[Tensor, Tensor] | None = None,
    synchronize: bool = False,
) -> BatchStatistics:
    """What the batch half is normalized with, without another pass over the feature map.

    It is ``running``, where that is given. Else the batch mean is the mean of the instance means,
    and the batch variance is the mean of the instance variances plus the variance of the instance
    means. No difference of squares is taken: large means do not cancel. ``synchronize`` takes the
    batches of all processes for one, whose statistics follow from theirs in the same way, weighted
    by their samples.
    """
    if running is not None:
        running_mean, running_var = (r.to(mean.dtype) for r in running)
        return BatchStatistics(running_mean, running_var, len(mean))
    batch_mean = mean.mean(dim=0)
    centred = mean - batch_mean
    batch_var = torch.addcmul(var, centred, centred).mean(dim=0)
    own = BatchStatistics(batch_mean, batch_var, len(mean))
    if not synchronize:
        return own
    shares = gather(torch.cat([own.mean, own.var, mean.new_tensor([own.samples])]))
    means, variances, samples = shares.split([len(batch_mean), len(batch_mean), 1], dim=1)
    weights = samples / samples.sum()
    batch_mean = (weights * means).sum(dim=0)
    batch_var = (weights * (variances + (means - batch_mean).square())).sum(dim=0)
    return BatchStatistics(batch_mean, batch_var, samples.sum())


def mixed_affine(
    parameters: Parameters, batch: BatchStatistics, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Scale and shift (N, C) with which ``scale * x + shift`` is Eq. 1."""
    gate, weight, bias, instance_weight, instance_bias = (p.to(mean.dtype) for p in parameters)
    batch_scale = gate * weight * torch.rsqrt(batch.var + eps)
    instance_scale = (1 - gate) * instance_weight * torch.rsqrt(var + eps)
    of_channel = torch.lerp(instance_bias, bias, gate) - batch_scale * batch.mean
    shift = torch.addcmul(of_channel, instance_scale, mean, value=-1)
    return batch_scale + instance_scale, shift


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
    """Gradient of Eq. 1 by the map and by the parameters.

    Args:
        total: sums over height and width of the incoming gradient (N, C).
        products: sums of its products with ``x - mean`` (N, C).
        parameters: as there, like the next four.
        batch: what the batch half was normalized with.
        mean: of the instances.
        var: of the instances.
        eps: added to both variances.
        size: height times width.
        training: whether ``batch`` is of this batch, and so depends on ``x``.

    Returns:
        a, b and c, each (N, C), with which ``a * gradient + b * x + c`` is the gradient of the map;
        and those of the parameters.
    """
    gate, weight, bias, instance_weight, instance_bias = (p.to(mean.dtype) for p in parameters)
    batch_factor, factor = torch.rsqrt(batch.var + eps), torch.rsqrt(var + eps)
    instance_gate = 1 - gate
    batch_scale = gate * weight * batch_factor
    instance_scale = instance_gate * instance_weight * factor
    # Sums of the gradient times the map as a half normalizes it: over an instance, over the batch.
    of_instance = factor * products
    of_batch = batch_factor * torch.addcmul(products, total, mean - batch.mean).sum(0)
    d_scale, d_bias = of_instance.sum(0), total.sum(0)
    d_parameters = Parameters(
        gate=weight * of_batch - instance_weight * d_scale + (bias - instance_bias) * d_bias,
        weight=gate * of_batch,
        bias=gate * d_bias,
        instance_weight=instance_gate * d_scale,
        instance_bias=instance_gate * d_bias,
    )
    # The gradient of a half by x is its scale times the gradient; where its statistics come from x,
    # less the mean of that and a slope times (x - mean). In place: of many small planes, such
    # values are a good part of the map.
    b = (instance_scale * factor).mul_(of_instance).div_(-size)
    c = (instance_scale * total).div_(-size).addcmul_(b, mean, value=-1)
    if training:
        of_value = batch_scale / -(size * batch.samples)
        slope = of_value * batch_factor * of_batch
        c.add_(of_value * d_bias - slope * batch.mean)
        b.add_(slope)
    return (instance_scale.add_(batch_scale), b, c), d_parameters


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
    batch = batch_statistics(mean, var, running, synchronize)
    scale, shift = mixed_affine(parameters, batch, mean, var, eps)
    return torch.addcmul(over_map(shift), values, over_map(scale)).to(x.dtype), batch


class FewPasses(torch.autograd.Function):
    """Eq. 1 by two functions that read the map few times: itself, and its gradient.

    Of the size of the map, only ``x`` is kept for the gradient. The second derivative is that of
    the plain formula.
    """

    @staticmethod
    def forward(
        ctx: Any, forward: Any, backward: Any, x: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The map, mean and variance of instances (2, N, C), and those for the batch half (2, C).

        Args:
            ctx: of autograd.
            forward: computes them from ``x`` and ``rest``.
            backward: computes the gradients of ``x`` and of the parameters, from the gradient of
                the map, x, both statistics, the parameters, ``training``, ``eps`` and whether
                that of ``x`` is needed.
            x: dense feature map (N, C, H, W).
            *rest: begins with the parameters and ends with ``training``, momentum and ``eps``.
        """
        y, instance, batch = forward(x, *rest)
        ctx.backward, ctx.training, ctx.eps = backward, rest[-3], rest[-1]
        ctx.save_for_backward(x, instance, batch, *rest[: len(Parameters._fields)])
        ctx.mark_non_differentiable(instance, batch)
        # Else PyTorch fills their gradients with zeros, a launch each.
        ctx.set_materialize_grads(False)
        return y, instance, batch

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor | None, *_of_statistics: None
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments of ``forward``."""
        count = len(ctx.needs_input_grad)
        if gradient is None:
            return (None,) * count
        x, instance, batch, *inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[2 : 3 + len(inputs)]
        if torch.is_grad_enabled():
            running = None if ctx.training else (batch[0], batch[1])
            found = _plain_gradient(gradient, x, Parameters(*inputs), running, ctx.eps, needed)
        else:
            # Of a sum, say, it is one value expanded.
            gradient = gradient.contiguous(memory_format=memory_format_of(x))
            of_x, of_parameters = ctx.backward(
                gradient, x, instance, batch, *inputs, ctx.training, ctx.eps, needed[0]
            )
            found = [of_x, *(g.to(p.dtype) for g, p in zip(of_parameters, inputs, strict=True))]
        wanted = (g if is_needed else None for g, is_needed in zip(found, needed, strict=True))
        return (None, None, *wanted, *(None,) * (count - 2 - len(needed)))


def _plain_gradient(
    gradient: Tensor,
    x: Tensor,
    parameters: Parameters,
    running: tuple[Tensor, Tensor] | None,
    eps: float,
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """Gradients of Eq. 1 by x and the parameters that can themselves be differentiated."""
    inputs = (x, *parameters)
    wanted = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed]
    with torch.autocast(x.device.type, enabled=False):
        y, _ = plain_batch_instance_norm(x, parameters, running, eps)
        found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=True))
    return [next(found) if is_needed else None for is_needed in needed]


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
