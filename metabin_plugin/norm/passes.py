"""The four passes over a feature map that a BIN layer consists of, in eager PyTorch.

Everything else of the layer is arithmetic on values per sample and channel. A pass over a large
feature map costs the time that memory takes to deliver it, so that their number is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.precision import at_least_float32


class Passes(NamedTuple):
    """One way to run the passes; in all of them feature maps are (N, C, H, W), the rest (N, C).

    Attributes:
        statistics: of `x`: instance mean and biased variance, float32 at least.
        affine: of `x`, `scale`, `shift`: `scale * x + shift`, of the dtype of `x`.
        sums: of `gradient`, `x`, `mean`: sums over height and width of `gradient` and of
            `gradient * (x - mean)`, float32 at least.
        combination: of `gradient`, `x`, `a`, `b`, `c`: `a * gradient + b * x + c`, of the dtype of
            `x`.
    """

    statistics: Callable[[Tensor], tuple[Tensor, Tensor]]
    affine: Callable[[Tensor, Tensor, Tensor], Tensor]
    sums: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    combination: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def dense(x: Tensor) -> Tensor:
    """The map in one of the two memory formats, channels_last if it is in neither."""
    return x if x.is_contiguous() else x.contiguous(memory_format=torch.channels_last)


def over_map(values: Tensor) -> Tensor:
    """Values (N, C), to be broadcast over a feature map."""
    return values[:, :, None, None]


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    values = at_least_float32(x)
    mean = values.mean(dim=(2, 3))
    centred = values - over_map(mean)
    return mean, centred.mul_(centred).mean(dim=(2, 3))


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(over_map(shift), at_least_float32(x), over_map(scale)).to(x.dtype)


def _sums(gradient: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    values = at_least_float32(gradient)
    products = (at_least_float32(x) - over_map(mean)).mul_(values)
    return values.sum(dim=(2, 3)), products.sum(dim=(2, 3))


def _combination(gradient: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    result = torch.addcmul(over_map(c), at_least_float32(x), over_map(b))
    return result.addcmul_(at_least_float32(gradient), over_map(a)).to(x.dtype)


ANY_DEVICE = Passes(_statistics, _affine, _sums, _combination)


# On CPU and a contiguous map, the kernels of PyTorch's own norm layers run these passes at the
# speed of memory, and those of its reductions and broadcasts do not. A plane of a sample then
# counts as a channel of a single sample.


def _planes(x: Tensor) -> Tensor:
    values = at_least_float32(x)
    return values.reshape(1, -1, *values.shape[2:])


def _native_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    samples, channels, height, width = x.shape
    size = height * width
    eps = torch.finfo(torch.float32).eps
    _, mean, inverse = torch.native_group_norm(
        at_least_float32(x), None, None, samples, channels, size, channels, eps
    )
    return mean, (inverse.pow(-2) - eps).clamp_(min=0)


def _native_affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    zeros = torch.zeros_like(scale).flatten()
    ones = torch.ones_like(zeros)
    y = F.batch_norm(
        _planes(x), zeros, ones, scale.flatten(), shift.flatten(), training=False, eps=0.0
    )
    # Nobody else has y; an ordinary view could not be changed in place by the activation after it.
    return torch.ops.aten._unsafe_view(y, x.shape).to(x.dtype)


def _native_sums(gradient: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    ones = torch.ones_like(mean).flatten()
    # The gradients of the bias and of the weight of a batch norm layer with this mean.
    _, products, total = torch.ops.aten.native_batch_norm_backward(
        _planes(gradient),
        _planes(x),
        None,
        None,
        None,
        mean.flatten(),
        ones,
        True,
        0.0,
        [False, True, True],
    )
    return total.view_as(mean), products.view_as(mean)


def _native_combination(gradient: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    result = _native_affine(at_least_float32(x), b, c)
    return result.addcmul_(at_least_float32(gradient), over_map(a)).to(x.dtype)


CONTIGUOUS_CPU = Passes(_native_statistics, _native_affine, _native_sums, _native_combination)


def eager_passes(x: Tensor) -> Passes:
    """The passes to take for a feature map."""
    return CONTIGUOUS_CPU if x.device.type == "cpu" and x.is_contiguous() else ANY_DEVICE
