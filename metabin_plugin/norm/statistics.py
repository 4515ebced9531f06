"""Instance statistics of a feature map, and the batch statistics that follow from them."""

from __future__ import annotations

import torch
from torch import Tensor


def instance_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every (sample, channel) over its height and width.

    Args:
        x: feature map (N, C, H, W), float32 or float64.

    Returns:
        Mean and variance, each (N, C).
    """
    var, mean = torch.var_mean(x, dim=(2, 3), correction=0)
    return mean, var


def batch_statistics(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Batch statistics from instance statistics, without another pass over the feature map.

    All instances of a batch have the same number of pixels, so the batch mean is the mean of the
    instance means, and the batch variance is the mean of the instance variances plus the variance
    of the instance means. No difference of squares is taken: large means do not cancel.

    Args:
        mean: instance means (N, C).
        var: biased instance variances (N, C).

    Returns:
        Mean and biased variance of the batch, each (C,).
    """
    between, batch_mean = torch.var_mean(mean, dim=0, correction=0)
    return batch_mean, var.mean(dim=0) + between


@torch.no_grad()
def update_running_statistics_(
    running_mean: Tensor,
    running_var: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    count: int,
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
