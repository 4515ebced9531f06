"""The passes of a BIN layer, compiled by `torch.compile`.

One compiled version serves all sizes of a dtype and memory format. It is made on a made-up feature
map, so that it does not depend on which layer or batch comes first.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metabin_plugin.norm.passes import Passes
from metabin_plugin.norm.statistics import batch_statistics
from metabin_plugin.norm.vectors import Vectors, gradients_of_map, map_of
from metabin_plugin.precision import at_least_float32

logger = logging.getLogger(__name__)

# Pixels in a block: of one channel where that is contiguous, and otherwise of all channels, which
# together should fit the fastest cache.
_LARGEST_BLOCK = 1024
_LARGEST_BLOCK_OF_ALL_CHANNELS = 128

# No two sizes alike, which the compiler would take for a rule.
_MADE_UP = (8, 48, 32, 16)


def _flat(x: Tensor) -> Tensor:
    """The map with as few dimensions as its memory format has: (N * C, pixels), (N, pixels, C)."""
    if x.is_contiguous():
        return x.view(-1, x.shape[2] * x.shape[3])
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _beside(values: Tensor, x: Tensor) -> Tensor:
    """Values (N, C), to be broadcast over ``_flat(x)``."""
    return values.reshape(-1, 1) if x.is_contiguous() else values[:, None]


def _blocks(x: Tensor) -> Tensor:
    """``_flat(x)`` with the pixels in two dimensions: blocks, at least two, and pixels of a block.

    Sums within a block and then over blocks read memory once, in the order in which it lies there,
    and lose less precision than one long sum.
    """
    height, width = x.shape[2:]
    largest = _LARGEST_BLOCK if x.is_contiguous() else _LARGEST_BLOCK_OF_ALL_CHANNELS
    rows = max(
        (n for n in range(1, height // 2 + 1) if height % n == 0 and n * width <= largest),
        default=1,
    )
    return _flat(x).unflatten(1, (height // rows, rows * width))


def _statistics_of_blocks(x: Tensor) -> tuple[Tensor, Tensor]:
    values = at_least_float32(x)
    blocks, pixels = values.shape[1:3]
    # Around a pixel of the block itself, the sum of squares exceeds that around the mean at most
    # by the factor 1 + pixels, whatever the values: one pass, and no catastrophic cancellation.
    origin = values[:, :, :1]
    distance = values - origin
    from_origin = distance.sum(2) / pixels
    var = (distance * distance).sum(2) / pixels - from_origin * from_origin
    means = from_origin + origin[:, :, 0]
    mean = means.sum(1) / blocks
    between = means - mean[:, None]
    return mean, (var + between * between).clamp(min=0).sum(1) / blocks


def _affine_into(y: Tensor, x: Tensor, scale: Tensor, shift: Tensor) -> None:
    y.copy_(at_least_float32(x) * scale + shift)


def _sums_in_blocks(gradient: Tensor, x: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    values = at_least_float32(gradient)
    # Two sums that look alike, of all blocks in one dimension: the compiler makes one pass of them.
    return values.sum(1), (values * (at_least_float32(x) - centre)).sum(1)


def _combination_into(
    y: Tensor, gradient: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor
) -> None:
    y.copy_(at_least_float32(gradient) * a + (at_least_float32(x) * b + c))


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    # At the first call, since torch.compile imports the whole compiler, which takes seconds.
    compiled = functools.cache(lambda: torch.compile(function, dynamic=True))

    def call(*arguments: Any) -> Any:
        return compiled()(*arguments)

    return call


_compiled_statistics = _compile(_statistics_of_blocks)
_compiled_affine = _compile(_affine_into)
_compiled_sums = _compile(_sums_in_blocks)
_compiled_combination = _compile(_combination_into)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, var = _compiled_statistics(_blocks(x))
    return mean.view(x.shape[:2]), var.view(x.shape[:2])


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    y = torch.empty_like(x)
    _compiled_affine(_flat(y), _flat(x), _beside(scale, x), _beside(shift, x))
    return y


def _sums(gradient: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    blocks = _blocks(x)
    count = blocks.shape[1]
    if x.is_contiguous():
        centre = mean.reshape(-1, 1).expand(-1, count).reshape(-1, 1)
    else:
        # One for all samples, or the centre of each block would be as large as its sums.
        centre = mean.mean(0)
    found = _compiled_sums(_blocks(gradient).flatten(0, 1), blocks.flatten(0, 1), centre)
    total, products = (part.unflatten(0, (-1, count)).sum(1).view_as(mean) for part in found)
    if not x.is_contiguous():
        products = products - (mean - centre) * total
    return total, products


def _combination(gradient: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    y = torch.empty_like(x)
    coefficients = (_beside(values, x) for values in (a, b, c))
    _compiled_combination(_flat(y), _flat(gradient), _flat(x), *coefficients)
    return y


COMPILED_PASSES = Passes(_statistics, _affine, _sums, _combination)
COMPILED_VECTORS = Vectors(_compile(map_of), _compile(gradients_of_map))


@functools.cache
def can_compile(device: str, dtype: torch.dtype, memory_format: torch.memory_format) -> bool:
    """Whether the passes compile, which the first call for a kind of feature map does.

    Args:
        device: "cpu" or "cuda".
        dtype: of the feature map.
        memory_format: `torch.contiguous_format` or `torch.channels_last`.
    """
    x = torch.linspace(-1, 1, math.prod(_MADE_UP), device=device).view(_MADE_UP).to(dtype)
    try:
        _run(x.contiguous(memory_format=memory_format))
    except Exception as error:
        # Whatever a missing or unfit compiler raises: the layer works without one.
        reason = " ".join(str(error).split())[:200]
        logger.warning("BIN runs without torch.compile on %s, which failed: %s", device, reason)
        return False
    return True


def _run(x: Tensor) -> None:
    logger.info("compiling BIN for %s %s; the result is cached on disk", x.device.type, x.dtype)
    # As the layer calls them, or all would be compiled once more for another state.
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        mean, var = COMPILED_PASSES.statistics(x)
        # Five tensors, for the compiler would count on one being the other.
        parameters = tuple(torch.ones_like(mean[0]) for _ in range(5))
        scale, shift, batch = COMPILED_VECTORS.map_of(mean, var, batch_statistics, parameters, 1e-5)
        running = (mean[0].clone(), var[0].clone())
        COMPILED_VECTORS.map_of(mean, var, running, parameters, 1e-5)
        y = COMPILED_PASSES.affine(x, scale, shift)
        sums = COMPILED_PASSES.sums(y, x, mean)
        size = x.shape[2] * x.shape[3]
        a, b, c, *_ = COMPILED_VECTORS.gradients_of_map(
            *sums, mean, var, batch, batch_statistics, parameters, 1e-5, size
        )
        COMPILED_PASSES.combination(y, x, a, b, c)
