"""Style of an image: mean and deviation of every channel of its feature map, and changes of it."""

from __future__ import annotations

import torch
from torch import Tensor

from metabin_plugin.norm import formula
from metabin_plugin.precision import at_least_float32

# MixStyle's paper has none; without it a channel that is constant in an image has no normal form.
_EPS = 1e-6


def instance_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of each image (MixStyle, Eq. 2 and 3).

    The deviation is the biased one, of all pixels. A small number is added to the variance before
    the square root, so that nothing is divided by zero. Gradients pass through both.

    Args:
        x: feature map (N, C, H, W).

    Returns:
        Mean and deviation, each (N, C, 1, 1), in float32 for half precision, else in the type of
        the map.

    Example:
        >>> mean, std = instance_statistics(torch.tensor([[[[1.0, 3.0]]]]))
        >>> mean.flatten().tolist(), round(std.item(), 3)
        ([2.0], 1.0)
    """
    mean, var = formula.instance_statistics(at_least_float32(x), keepdim=True)
    return mean, (var + _EPS).sqrt()


def restyle(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Give each image another style in the place of its own (AdaIN; MixStyle, Eq. 4 and 7).

    Its own style is a constant in the gradient by ``x``, as in MixStyle: the gradient is that of an
    affine map. Gradients by ``mean`` and ``std`` pass.

    Args:
        x: feature map (N, C, H, W).
        mean: new mean of each channel, such as (N, C, 1, 1).
        std: new deviation of each channel, of the same shape.

    Returns:
        Feature map of the shape and type of ``x``.
    """
    values = at_least_float32(x)
    with torch.no_grad():
        own_mean, own_std = instance_statistics(values)
    return torch.addcmul(mean, values - own_mean, std / own_std).to(x.dtype)
