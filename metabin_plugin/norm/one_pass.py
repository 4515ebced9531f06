"""BIN as one differentiable function that keeps its input and values per sample and channel."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabin_plugin.norm.affine import Parameters
from metabin_plugin.norm.passes import Passes, dense
from metabin_plugin.norm.plain import plain_batch_instance_norm
from metabin_plugin.norm.statistics import Batch, BatchStatistics
from metabin_plugin.norm.vectors import Vectors


class Form(NamedTuple):
    """How to compute a layer.

    Attributes:
        passes: over the feature map.
        vectors: between them.
    """

    passes: Passes
    vectors: Vectors


def batch_instance_norm_in_passes(
    form: Form, x: Tensor, parameters: Parameters, batch: Batch, eps: float
) -> tuple[Tensor, BatchStatistics]:
    """Eq. 1 in two passes over the feature map, and its gradient in two more.

    The second derivative is that of the plain form.

    Args:
        form: how to compute it.
        x: feature map (N, C, H, W).
        parameters: gate, weight, bias, instance weight, instance bias; each (C,).
        batch: statistics for the batch half.
        eps: added to both variances before the square root.

    Returns:
        The normalized feature map, and the statistics of the batch half, without gradients.
    """
    x = dense(x)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        mean, var = form.passes.statistics(x.detach())
        scale, shift, statistics = form.vectors.map_of(
            mean, var, batch, _widened(parameters, mean), eps
        )
    computed = (mean, var, scale, shift, statistics)
    y = _InPasses.apply(form, batch, eps, computed, x, *parameters)
    return y, statistics


class _InPasses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        form: Form,
        batch: Batch,
        eps: float,
        computed: tuple[Tensor, Tensor, Tensor, Tensor, BatchStatistics],
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        mean, var, scale, shift, (batch_mean, batch_var, ctx.samples) = computed
        ctx.form, ctx.batch, ctx.eps = form, batch, eps
        ctx.save_for_backward(mean, var, batch_mean, batch_var, x, *parameters)
        with torch.autocast(x.device.type, enabled=False):
            return form.passes.affine(x.detach(), scale, shift)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        vectors, inputs = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        needed = ctx.needs_input_grad[4:]
        with torch.autocast(gradient.device.type, enabled=False):
            if torch.is_grad_enabled():
                found = _differentiable(ctx.batch, ctx.eps, needed, gradient, inputs)
            else:
                found = _in_passes(ctx, needed[0], gradient, vectors, inputs)
        return None, None, None, None, *found


def _in_passes(
    ctx: Any,
    needs_x: bool,
    gradient: Tensor,
    vectors: tuple[Tensor, ...],
    inputs: tuple[Tensor, ...],
) -> tuple[Tensor | None, ...]:
    x, *parameters = (tensor.detach() for tensor in inputs)
    passes, (mean, var, batch_mean, batch_var) = ctx.form.passes, vectors
    # Of a sum, say, it is one value expanded.
    gradient = gradient.contiguous(memory_format=memory_format_of(x))
    total, products = passes.sums(gradient, x, mean)
    a, b, c, *found = ctx.form.vectors.gradients_of_map(
        total,
        products,
        mean,
        var,
        (batch_mean, batch_var, ctx.samples),
        ctx.batch,
        _widened(tuple(parameters), mean),
        ctx.eps,
        x.shape[2] * x.shape[3],
    )
    # The first layer of a network, whose input nobody differentiates in a meta step.
    of_x = passes.combination(gradient, x, a, b, c) if needs_x else None
    return of_x, *(d.to(p.dtype) for d, p in zip(found, parameters, strict=True))


def _differentiable(
    batch: Batch, eps: float, needed: tuple[bool, ...], gradient: Tensor, inputs: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    y, _ = plain_batch_instance_norm(*inputs, batch=batch, eps=eps)
    wanted = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed]
    found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The memory format of a feature map that has one of the two."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def _widened(parameters: tuple[Tensor, ...], like: Tensor) -> Any:
    return tuple(parameter.detach().to(like.dtype) for parameter in parameters)
