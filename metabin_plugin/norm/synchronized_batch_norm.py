"""Batch normalization over the batches of all processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabin_plugin.norm.formula import count_batch_, update_running_statistics_
from metabin_plugin.norm.processes import are_several, global_statistics
from metabin_plugin.precision import at_least_float32


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose batch is that of all processes of a distributed run.

    Parameters, buffers and results are those of `nn.BatchNorm2d`, bit for bit with one process.
    Unlike `nn.SyncBatchNorm` it takes CPU tensors and is twice differentiable.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a feature map.

        Args:
            x: feature map (N, C, H, W).

        Returns:
            Normalized feature map of the same shape and dtype.

        Raises:
            ValueError: `x` is not 4-D, or has one value per channel in all processes together.
        """
        self._check_input_dim(x)
        updates = self.training and self.track_running_stats
        holds = self.training and not self.track_running_stats
        return synchronized_batch_norm(
            x,
            None if holds else self.running_mean,
            None if holds else self.running_var,
            self.weight,
            self.bias,
            training=self.training or self.running_mean is None,
            momentum=count_batch_(self) if updates else 0.0,
            eps=self.eps,
        )


def synchronized_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` with the batch statistics of all processes.

    With one process, or with `training` False, it is that function; CPU tensors will do. The batch
    statistics are computed in float32 at least. Twice differentiable in every argument.

    Args:
        x: values (N, C, ...), with every N at least 1.
        running_mean: running mean (C,), updated in place when `training`.
        running_var: running variance (C,), updated in place with the unbiased batch variance.
        weight: affine weight (C,); None for 1.
        bias: affine bias (C,); None for 0.
        training: whether the statistics are those of the batch.
        momentum: factor of the new value in the running statistics, in [0, 1].
        eps: added to the variance before the square root.

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    if not (training and are_several()):
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    values = at_least_float32(x)
    axes = [0, *range(2, x.dim())]
    var, mean = torch.var_mean(values, dim=axes, correction=0)
    mean, var, count = global_statistics(mean, var, x.numel() // x.shape[1])
    if running_mean is not None and running_var is not None:
        update_running_statistics_(running_mean, running_var, mean, var, count, momentum)
    shape = [1, -1] + [1] * (x.dim() - 2)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight.to(values.dtype)
    y = (values - mean.view(shape)) * scale.view(shape)
    if bias is not None:
        y = y + bias.to(values.dtype).view(shape)
    return y.to(x.dtype)
