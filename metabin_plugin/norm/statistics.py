"""Statistics of instances, of the batch that they make up, and of the batches of all processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metabin_plugin.norm.processes import gather, sum_over_processes

# Mean and biased variance of a batch, each (C,), and its number of samples.
BatchStatistics = tuple[Tensor, Tensor, "int | Tensor"]
# Statistics for the batch half: running ones, or the way to get those of the batch from those of
# its instances, each (N, C).
Batch = tuple[Tensor, Tensor] | Callable[[Tensor, Tensor], BatchStatistics]


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


def batch_statistics(mean: Tensor, var: Tensor) -> BatchStatistics:
    """Batch statistics from instance statistics, without another pass over the feature map.

    All instances of a batch have the same number of pixels, so the batch mean is the mean of the
    instance means, and the batch variance is the mean of the instance variances plus the variance
    of the instance means. No difference of squares is taken: large means do not cancel.

    Args:
        mean: instance means (N, C).
        var: biased instance variances (N, C).

    Returns:
        Mean and biased variance of the batch, each (C,), and its number of instances.
    """
    batch_mean = mean.mean(dim=0)
    between = (mean - batch_mean).square().mean(dim=0)
    return batch_mean, var.mean(dim=0) + between, len(mean)


def global_batch_statistics(mean: Tensor, var: Tensor) -> BatchStatistics:
    """`batch_statistics` of the instances of all processes, all with as many pixels."""
    return global_statistics(*batch_statistics(mean, var))


def statistics_of(batch: Batch, mean: Tensor, var: Tensor) -> BatchStatistics:
    """Statistics for the batch half of a layer.

    Args:
        batch: where they come from.
        mean: instance means (N, C).
        var: biased instance variances (N, C).

    Returns:
        Mean and biased variance, each (C,), in the dtype of `mean`, and the number of instances.
    """
    if callable(batch):
        return batch(mean, var)
    running_mean, running_var = batch
    return running_mean.to(mean.dtype), running_var.to(mean.dtype), len(mean)


def gradients_of_statistics(
    batch: Batch, gradient_of_mean: Tensor, gradient_of_var: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the batch statistics, from what this process computes with them.

    Args:
        batch: where the statistics came from.
        gradient_of_mean: of what this process computes (C,).
        gradient_of_var: the same (C,).

    Returns:
        Gradients of what all processes that share the statistics compute, each (C,).
    """
    if batch is not global_batch_statistics:
        return gradient_of_mean, gradient_of_var
    both = sum_over_processes(torch.stack([gradient_of_mean, gradient_of_var]))
    return both[0], both[1]


def global_statistics(mean: Tensor, var: Tensor, count: int | Tensor) -> BatchStatistics:
    """Statistics of the global batch from those of each process's share of it.

    The global variance is the mean of the variances plus the variance of the means, both weighted
    by the counts, so that large means do not cancel. One collective in each direction.

    Args:
        mean: mean of this process's batch (C,).
        var: its biased variance (C,).
        count: its number of values per channel, or of instances with as many values each.

    Returns:
        Mean and biased variance of the global batch, each (C,), and the sum of the counts, a
        scalar; differentiable as ``metabin_plugin.norm.processes.gather``.
    """
    shares = gather(torch.cat([mean, var, mean.new_tensor([count])]))
    means, variances, counts = shares.split([len(mean), len(var), 1], dim=1)
    weights = counts / counts.sum()
    global_mean = (weights * means).sum(dim=0)
    global_var = (weights * (variances + (means - global_mean).square())).sum(dim=0)
    return global_mean, global_var, counts.sum()


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
