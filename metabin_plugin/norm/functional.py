"""Batch-instance normalization (paper section 3.2, Eq. 1) as a function of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.norm.processes import are_several
from metabin_plugin.norm.statistics import (
    batch_statistics,
    global_statistics,
    instance_statistics,
    update_running_statistics_,
)


def batch_instance_norm(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    instance_weight: Tensor,
    instance_bias: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    synchronize: bool = False,
) -> Tensor:
    """Mix batch and instance normalization channel by channel (Eq. 1).

    `y = gate * (weight * BN(x) + bias) + (1 - gate) * (instance_weight * IN(x) + instance_bias)`,
    computed as one affine map per (sample, channel). Statistics and the map are computed in
    float32 at least; the result has the dtype of `x`. Twice differentiable in every argument.

    A 1x1 feature map has no instance statistics: the result is then batch normalization alone,
    and `gate`, `instance_weight` and `instance_bias` take no part in it.

    Args:
        x: feature map (N, C, H, W).
        gate: balancing parameter rho (C,), in [0, 1]; 1 is batch normalization alone.
        weight: affine weight of the batch half (C,).
        bias: affine bias of the batch half (C,).
        instance_weight: affine weight of the instance half (C,).
        instance_bias: affine bias of the instance half (C,).
        running_mean: running mean (C,). Updated in place when `training`; used instead of the
            batch mean otherwise.
        running_var: running variance (C,), updated in place with the unbiased batch variance.
        training: whether the batch half uses the statistics of the batch. The instance half
            always uses those of the instance.
        momentum: factor of the new value in the running statistics, in [0, 1].
        eps: added to both variances before the square root.
        synchronize: whether the batch is that of all processes of a distributed run.

    Returns:
        Tensor of the shape, dtype and memory format of `x`.

    Raises:
        ValueError: `x` is not 4-D, does not have the channels of `gate`, has one value per
            channel in training, or running statistics are missing in evaluation.
    """
    _check_shapes(x, gate)
    if x.shape[2] == 1 and x.shape[3] == 1:
        batch_norm = synchronized_batch_norm if synchronize else F.batch_norm
        return batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    mean, var = instance_statistics(values)
    if training:
        batch_mean, batch_var = batch_statistics(mean, var)
        own_count = x.numel() // x.shape[1]
        count: int | Tensor = own_count
        if synchronize and are_several():
            batch_mean, batch_var, count = global_statistics(batch_mean, batch_var, own_count)
        if running_mean is not None and running_var is not None:
            update_running_statistics_(
                running_mean, running_var, batch_mean, batch_var, count, momentum
            )
    elif running_mean is not None and running_var is not None:
        batch_mean, batch_var = running_mean.to(values.dtype), running_var.to(values.dtype)
    else:
        raise ValueError("batch_instance_norm needs running statistics when training is False")
    dtype = values.dtype
    scale, shift = mixed_affine(
        gate.to(dtype),
        weight.to(dtype),
        bias.to(dtype),
        instance_weight.to(dtype),
        instance_bias.to(dtype),
        batch_mean,
        batch_var,
        mean,
        var,
        eps,
    )
    y = torch.addcmul(shift[:, :, None, None], values, scale[:, :, None, None])
    return y.to(x.dtype)


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
    values = x.to(torch.promote_types(x.dtype, torch.float32))
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


def mixed_affine(
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    instance_weight: Tensor,
    instance_bias: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Scale and shift per (sample, channel) with which `scale * x + shift` is Eq. 1.

    Args:
        gate: balancing parameter rho (C,).
        weight: affine weight of the batch half (C,).
        bias: affine bias of the batch half (C,).
        instance_weight: affine weight of the instance half (C,).
        instance_bias: affine bias of the instance half (C,).
        batch_mean: batch or running mean (C,).
        batch_var: batch or running variance (C,).
        mean: instance means (N, C).
        var: biased instance variances (N, C).
        eps: added to both variances before the square root.

    Returns:
        Scale and shift, each (N, C).
    """
    batch_scale = gate * weight * torch.rsqrt(batch_var + eps)
    instance_scale = (1 - gate) * instance_weight * torch.rsqrt(var + eps)
    batch_shift = gate * bias - batch_scale * batch_mean
    instance_shift = (1 - gate) * instance_bias - instance_scale * mean
    return batch_scale + instance_scale, batch_shift + instance_shift


def _check_shapes(x: Tensor, gate: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"batch_instance_norm needs a 4-D feature map, got {x.dim()} dimensions")
    if gate.shape != x.shape[1:2]:
        raise ValueError(
            f"batch_instance_norm needs one gate per channel: the feature map has {x.shape[1]} "
            f"channels, the gate has shape {tuple(gate.shape)}"
        )
