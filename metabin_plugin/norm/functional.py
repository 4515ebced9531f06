"""Batch-instance normalization (paper section 3.2, Eq. 1) as a function of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.norm.forms import choose_form, is_traced
from metabin_plugin.norm.one_pass import batch_instance_norm_in_passes
from metabin_plugin.norm.plain import plain_batch_instance_norm
from metabin_plugin.norm.processes import are_several
from metabin_plugin.norm.statistics import (
    Batch,
    batch_statistics,
    global_batch_statistics,
    global_statistics,
    update_running_statistics_,
)
from metabin_plugin.precision import at_least_float32


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
    form: str = "auto",
) -> Tensor:
    """Mix batch and instance normalization channel by channel (Eq. 1).

    `y = gate * (weight * BN(x) + bias) + (1 - gate) * (instance_weight * IN(x) + instance_bias)`,
    computed as one affine map per (sample, channel). Statistics and the map are computed in
    float32 at least; the result has the dtype of `x`. Twice differentiable in every argument; the
    gradients keep `x` and values per (sample, channel) alive, nothing else of its size.

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
        synchronize: whether the batch is that of all processes of a distributed run, each of which
            has feature maps of this height and width.
        form: how to compute it, one of `metabin_plugin.norm.NORM_FORMS`; the results are the same
            up to rounding.

    Returns:
        Tensor of the shape, dtype and memory format of `x`.

    Raises:
        ValueError: `x` is not 4-D, does not have the channels of `gate`, has one value per
            channel in training, or running statistics are missing in evaluation.
        NormError: `form` is unknown, or "compiled" where nothing can be compiled.
    """
    _check_shapes(x, gate)
    if x.shape[2] == 1 and x.shape[3] == 1:
        batch_norm = synchronized_batch_norm if synchronize else F.batch_norm
        return batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    batch = _batch_half(running_mean, running_var, training, synchronize)
    if not training and _is_batch_normalization(x, gate):
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    parameters = (gate, weight, bias, instance_weight, instance_bias)
    chosen = choose_form(form, x, batch)
    if chosen is None:
        y, statistics = plain_batch_instance_norm(x, *parameters, batch=batch, eps=eps)
    else:
        y, statistics = batch_instance_norm_in_passes(chosen, x, parameters, batch, eps)
    if training and running_mean is not None and running_var is not None:
        batch_mean, batch_var, samples = statistics
        count = samples * x.shape[2] * x.shape[3]
        update_running_statistics_(
            running_mean, running_var, batch_mean, batch_var, count, momentum
        )
    return y


def _batch_half(
    running_mean: Tensor | None, running_var: Tensor | None, training: bool, synchronize: bool
) -> Batch:
    if training:
        several = synchronize and are_several()
        return global_batch_statistics if several else batch_statistics
    if running_mean is None or running_var is None:
        raise ValueError("batch_instance_norm needs running statistics when training is False")
    if torch.is_grad_enabled():
        # Later training moves them in place, perhaps before a backward pass.
        return running_mean.clone(), running_var.clone()
    return running_mean, running_var


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


def _is_batch_normalization(x: Tensor, gate: Tensor) -> bool:
    # On a GPU the question would cost more than the statistics: the answer has to be waited for.
    asks = x.device.type == "cpu" and not torch.is_grad_enabled() and not is_traced(x)
    return asks and bool((gate == 1).all())


def _check_shapes(x: Tensor, gate: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"batch_instance_norm needs a 4-D feature map, got {x.dim()} dimensions")
    if gate.shape != x.shape[1:2]:
        raise ValueError(
            f"batch_instance_norm needs one gate per channel: the feature map has {x.shape[1]} "
            f"channels, the gate has shape {tuple(gate.shape)}"
        )
