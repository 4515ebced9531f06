"""BIN on a CPU by the kernels of PyTorch's own norm layers: two passes over the map, and two back.

On a contiguous map these kernels run at the speed of memory, and PyTorch's reductions and
broadcasts do not. A plane of a sample then counts as a channel of a single sample. For other maps
the passes are ordinary operators. What lies between the passes is in ``formula.py``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.norm.formula import (
    BatchStatistics,
    Parameters,
    batch_statistics,
    instance_statistics,
    mixed_affine,
    mixed_affine_gradient,
    over_map,
    plain_gradient,
)
from metabin_plugin.precision import at_least_float32

# Pixels of a narrow plane from which on batch normalization's own reduction is the faster one.
_MANY_PIXELS = 512


def native_batch_instance_norm(
    x: Tensor, parameters: Parameters, running: tuple[Tensor, Tensor] | None, eps: float
) -> tuple[Tensor, BatchStatistics]:
    """Eq. 1, as ``formula.plain_batch_instance_norm`` has it.

    Of the size of the map, only ``x`` is kept for the gradient; a copy, if it is in no memory
    format.
    """
    y, mean, var = _Native.apply(dense(x), running, eps, *parameters)
    return y, BatchStatistics(mean, var, len(x))


def dense(x: Tensor) -> Tensor:
    """The map in one of the two memory formats, channels_last if it is in neither."""
    return x if x.is_contiguous() else x.contiguous(memory_format=torch.channels_last)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The memory format of a feature map that has one of the two."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, running: tuple[Tensor, Tensor] | None, eps: float, *inputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            mean, var = statistics(x)
            if running is None:
                batch = batch_statistics(mean, var)
            else:
                # Copies, for later training moves the originals, perhaps before a backward pass.
                running_mean, running_var = (r.to(mean.dtype, copy=True) for r in running)
                batch = BatchStatistics(running_mean, running_var, len(x))
            parameters = Parameters(*(p.to(mean.dtype) for p in inputs))
            scale, offset = mixed_affine(parameters, batch, mean, var, eps)
            y = affine(x, mean, scale, offset)
        ctx.training, ctx.eps = running is None, eps
        ctx.save_for_backward(mean, var, batch.mean, batch.var, x, *inputs)
        ctx.mark_non_differentiable(batch.mean, batch.var)
        ctx.set_materialize_grads(False)
        return y, batch.mean, batch.var

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor | None, *_of_statistics: None
    ) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * len(ctx.needs_input_grad)
        mean, var, batch_mean, batch_var, x, *inputs = ctx.saved_tensors
        needs_x, _, _, *needed = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():
                running = None if ctx.training else (batch_mean, batch_var)
                of_x, *of_inputs = plain_gradient(
                    gradient, x, Parameters(*inputs), running, ctx.eps, (needs_x, *needed)
                )
                return of_x, None, None, *of_inputs
            # Of a sum, say, it is one value expanded.
            gradient = gradient.contiguous(memory_format=memory_format_of(x))
            abc, of_parameters = mixed_affine_gradient(
                *_sums(gradient, x, mean),
                Parameters(*(p.to(mean.dtype) for p in inputs)),
                BatchStatistics(batch_mean, batch_var, len(x)),
                mean,
                var,
                ctx.eps,
                size=x.shape[2] * x.shape[3],
                training=ctx.training,
            )
            # Nobody differentiates the input of a network's first layer in a meta step.
            of_x = _combination(gradient, x, mean, *abc) if needs_x else None
        return (
            of_x,
            None,
            None,
            *(d.to(p.dtype) for d, p in zip(of_parameters, inputs, strict=True)),
        )


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Instance mean and biased variance (N, C) of a dense map, float32 at least."""
    if not x.is_contiguous():
        return instance_statistics(at_least_float32(x))
    samples, channels, height, width = x.shape
    # With vectors in float32, the statistics of a narrow map are in float32 too.
    one = x.new_ones(samples * channels, dtype=torch.promote_types(x.dtype, torch.float32))
    if x.dtype != one.dtype and height * width >= _MANY_PIXELS:
        mean, var = torch.batch_norm_update_stats(_planes(x), one, one.clone(), 0.0)
        return mean.view(samples, channels), var.view(samples, channels)
    one = one[:channels]
    eps = torch.finfo(torch.float32).eps
    _, mean, inverse = torch.native_group_norm(
        x, one, torch.zeros_like(one), samples, channels, height * width, channels, eps
    )
    return mean, (inverse.pow(-2) - eps).clamp_(min=0)


def affine(x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """``scale * (x - mean) + offset`` of a dense map, in its dtype; the others are (N, C)."""
    if not x.is_contiguous():
        shift = over_map(offset - scale * mean)
        return torch.addcmul(shift, at_least_float32(x), over_map(scale)).to(x.dtype)
    ones = torch.ones_like(mean).flatten()
    y = F.batch_norm(
        _planes(x), mean.flatten(), ones, scale.flatten(), offset.flatten(), False, 0.0, 0.0
    )
    # Nobody else has y; an ordinary view could not be changed in place by the activation after it.
    return torch.ops.aten._unsafe_view(y, x.shape)


def _sums(gradient: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over height and width of ``gradient`` and of ``gradient * (x - mean)``, (N, C)."""
    if not x.is_contiguous():
        values = at_least_float32(gradient)
        products = (at_least_float32(x) - over_map(mean)).mul_(values)
        return values.sum(dim=(2, 3)), products.sum(dim=(2, 3))
    ones, centre = torch.ones_like(mean).flatten(), mean.flatten()
    planes = _planes(gradient), _planes(x)
    # The gradients of the bias and of the weight of a batch norm layer with this mean.
    _, products, total = torch.ops.aten.native_batch_norm_backward(
        *planes, ones, None, None, centre, ones, True, 0.0, [False, True, True]
    )
    return total.view_as(mean), products.view_as(mean)


def _combination(
    gradient: Tensor, x: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor
) -> Tensor:
    """``a * gradient + b * (x - mean) + c`` of dense maps, in the dtype of ``x``."""
    if not x.is_contiguous():
        result = torch.addcmul(over_map(c - b * mean), at_least_float32(x), over_map(b))
        return result.addcmul_(at_least_float32(gradient), over_map(a)).to(x.dtype)
    # The factor is rounded as the map is: to multiply values of two dtypes PyTorch would widen
    # the whole map.
    return affine(x, mean, b, c).addcmul_(gradient, over_map(a.to(x.dtype)))


def _planes(x: Tensor) -> Tensor:
    return x.view(1, -1, *x.shape[2:])
