"""BIN on a CPU by the kernels of PyTorch's own norm layers: two passes over the map, and two back.

On a contiguous map these kernels run at the speed of memory, and PyTorch's reductions and
broadcasts do not. A plane of a sample then counts as a channel of a single sample. For other maps
the passes are ordinary operators. What lies between the passes is in ``formula.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metabin_plugin.norm.formula import (
    BatchStatistics,
    FewPasses,
    Parameters,
    batch_statistics,
    dense,
    instance_statistics,
    mixed_affine,
    mixed_affine_gradient,
    over_map,
)
from metabin_plugin.precision import at_least_float32

# Of the variance of PyTorch's group norm; small, for the variance is computed back from its result.
_EPS = torch.finfo(torch.float32).eps


def native_batch_instance_norm(
    x: Tensor, parameters: Parameters, running: tuple[Tensor, Tensor] | None, eps: float
) -> tuple[Tensor, BatchStatistics]:
    """Eq. 1, as ``formula.plain_batch_instance_norm`` has it.

    Of the size of the map, only ``x`` is kept for the gradient; a copy, if it is in no memory
    format.
    """
    rest = (*parameters, running, running is None, None, eps)
    y, _, (mean, var) = FewPasses.apply(_forward, _backward, dense(x), *rest)
    return y, BatchStatistics(mean, var, len(x))


def _forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, running, _training, _momentum, eps = rest
    with torch.autocast("cpu", enabled=False):
        # A narrow map would be rounded twice.
        in_place = x.is_contiguous() and x.dtype in (torch.float32, torch.float64)
        if in_place:
            y, mean, var = _standardized(x)
        else:
            mean, var = statistics(x)
        batch = batch_statistics(mean, var, running)
        scale, shift = mixed_affine(Parameters(*inputs), batch, mean, var, eps)
        if in_place:
            # To write what has just been read is faster than to fill a new map.
            shift.addcmul_(scale, mean)
            affine(y, scale.mul_((var + _EPS).sqrt_()), shift, into=y)
        else:
            y = affine(x, scale, shift)
    # Copies: later training moves running statistics in place, perhaps before a backward pass.
    return y, torch.stack([mean, var]), torch.stack(batch[:2])


def _backward(
    gradient: Tensor, x: Tensor, instance: Tensor, batch: Tensor, *rest: Any
) -> tuple[Tensor | None, Parameters]:
    *inputs, training, eps, needs_x = rest
    (mean, var), (batch_mean, batch_var) = instance, batch
    with torch.autocast("cpu", enabled=False):
        abc, of_parameters = mixed_affine_gradient(
            *_sums(gradient, x, mean),
            Parameters(*inputs),
            BatchStatistics(batch_mean, batch_var, len(x)),
            mean,
            var,
            eps,
            size=x.shape[2] * x.shape[3],
            training=training,
        )
        # Nobody differentiates the input of a network's first layer in a meta step.
        return (_combination(gradient, x, *abc) if needs_x else None), of_parameters


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Instance mean and biased variance (N, C) of a dense map, float32 at least."""
    if not x.is_contiguous():
        return instance_statistics(at_least_float32(x))
    if x.dtype != torch.bfloat16:
        return _standardized(x)[1:]
    # One pass, and a difference of squares: it cancels less than such a map is rounded.
    total, squares = _sums(x, x, x.new_zeros(x.shape[:2], dtype=torch.float32))
    mean, squares = (values.div_(x[0, 0].numel()) for values in (total, squares))
    return mean, squares.addcmul_(mean, mean, value=-1).clamp_(min=0)


def _standardized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Instance normalization by ``_EPS``, without an affine map, and its statistics (N, C)."""
    samples, channels, height, width = x.shape
    # With vectors in float32, the statistics of a narrow map are in float32 too.
    one = x.new_ones(channels, dtype=torch.promote_types(x.dtype, torch.float32))
    y, mean, inverse = torch.native_group_norm(
        x, one, torch.zeros_like(one), samples, channels, height * width, channels, _EPS
    )
    return y, mean, inverse.pow_(-2).sub_(_EPS).clamp_(min=0)


def affine(x: Tensor, scale: Tensor, shift: Tensor, into: Tensor | None = None) -> Tensor:
    """``scale * x + shift`` of a dense map, in its dtype; the others are (N, C).

    A contiguous result can be written into another map, or into ``x`` itself.
    """
    if not x.is_contiguous():
        return torch.addcmul(over_map(shift), at_least_float32(x), over_map(scale)).to(x.dtype)
    scale, shift = scale.flatten(), shift.flatten()
    none, one, unused = torch.zeros_like(scale), torch.ones_like(scale), scale.new_empty(0)
    y = torch.empty_like(x) if into is None else into
    results = _planes(y), unused, unused
    torch.native_batch_norm(_planes(x), scale, shift, none, one, False, 0.0, 0.0, out=results)
    return y


def _sums(gradient: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over height and width of ``gradient`` and of ``gradient * (x - mean)``, (N, C)."""
    if not x.is_contiguous():
        values = at_least_float32(gradient)
        products = (at_least_float32(x) - over_map(mean)).mul_(values)
        return values.sum(dim=(2, 3)), products.sum(dim=(2, 3))
    planes, centre = (_planes(gradient), _planes(x)), mean.flatten()
    ones, wanted = torch.ones_like(centre), [False, True, True]
    # The gradients of the weight and of the bias of a norm layer with this mean. Group norm's are
    # the faster ones on narrow maps, but subtract the mean from sums, where large means cancel:
    # less than a narrow map is rounded, more than a float32 one.
    if x.dtype == mean.dtype:
        _, products, total = torch.ops.aten.native_batch_norm_backward(
            *planes, ones, None, None, centre, ones, True, 0.0, wanted
        )
    else:
        size = x.shape[2] * x.shape[3]
        _, products, total = torch.ops.aten.native_group_norm_backward(
            *planes, centre[None], ones[None], ones, 1, len(ones), size, len(ones), wanted
        )
    return total.view_as(mean), products.view_as(mean)


def _combination(gradient: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a * gradient + b * x + c`` of dense maps, in the dtype of ``x``."""
    if not x.is_contiguous():
        result = torch.addcmul(over_map(c), at_least_float32(x), over_map(b))
        return result.addcmul_(at_least_float32(gradient), over_map(a)).to(x.dtype)
    # The factor is rounded as the map is: to multiply values of two dtypes PyTorch would widen
    # the whole map.
    return affine(x, b, c).addcmul_(gradient, over_map(a.to(x.dtype)))


def _planes(x: Tensor) -> Tensor:
    return x.view(1, -1, *x.shape[2:])
