"""Batch-instance normalization (paper section 3.2, Eq. 1): its function, and the norm layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabin_plugin.errors import NormError
from metabin_plugin.norm import triton_form
from metabin_plugin.norm.formula import (
    Parameters,
    memory_format_of,
    plain_batch_instance_norm,
    update_running_statistics_,
)
from metabin_plugin.norm.native import native_batch_instance_norm
from metabin_plugin.processes import are_several
from metabin_plugin.text import shown

# "plain", in differentiable operators alone, with more memory and time; "native", by the kernels of
# PyTorch's norm layers on a CPU; "triton", by kernels of the plugin's own on a GPU; "auto", the
# fastest that there is for a feature map.
NORM_FORMS = ("auto", "plain", "native", "triton")


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
    num_batches_tracked: Tensor | None = None,
    synchronize: bool = False,
    form: str = "auto",
) -> Tensor:
    """Mix batch and instance normalization channel by channel (Eq. 1).

    `y = gate * (weight * BN(x) + bias) + (1 - gate) * (instance_weight * IN(x) + instance_bias)`,
    computed as one affine map per (sample, channel). Statistics and the map are computed in
    float32 at least. Twice differentiable in every argument; but for the plain form, nothing of
    the size of `x` is kept for the gradient except `x`.

    A 1x1 feature map has no instance statistics, nor has an empty batch: the result is then batch
    normalization alone, and the gradients of `gate`, `instance_weight` and `instance_bias` are 0.

    Args:
        x: feature map (N, C, H, W).
        gate: balancing parameter rho (C,), in [0, 1]; 1 is batch normalization alone.
        weight: affine weight of the batch half (C,).
        bias: affine bias of the batch half (C,).
        instance_weight: affine weight of the instance half (C,).
        instance_bias: affine bias of the instance half (C,).
        running_mean: (C,); moved in place when `training`, else used instead of the batch mean.
        running_var: (C,); likewise, moved towards the unbiased batch variance.
        training: whether the batch half uses the statistics of the batch.
        momentum: factor of the new value in the running statistics, in [0, 1].
        eps: added to both variances before the square root.
        num_batches_tracked: int64 scalar, increased by 1.
        synchronize: whether the batch is that of all processes of a distributed run, each of which
            has feature maps of this height and width.
        form: one of `metabin_plugin.norm.NORM_FORMS`; results are the same up to rounding. What a
            form cannot do takes the plain one: float64 on a GPU, statistics of several processes,
            transforms of `torch.func`.

    Returns:
        Tensor of the shape, dtype and memory format of `x`.

    Raises:
        ValueError: `x` is not 4-D, does not have the channels of `gate`, has one value per
            channel in training, or running statistics are missing in evaluation.
        NormError: `form` is unknown, or not for the device of `x`.
    """
    if x.dim() != 4:
        raise ValueError(f"batch_instance_norm needs a 4-D feature map, got {x.dim()} dimensions")
    if gate.shape != x.shape[1:2]:
        raise ValueError(
            f"batch_instance_norm needs one gate per channel: the feature map has {x.shape[1]} "
            f"channels, the gate has shape {tuple(gate.shape)}"
        )
    running = None
    if running_mean is not None and running_var is not None:
        running = running_mean, running_var
    elif not training:
        raise ValueError("batch_instance_norm needs running statistics when training is False")
    several = training and synchronize and are_several()
    parameters = Parameters(gate, weight, bias, instance_weight, instance_bias)
    is_batch_norm = (x.shape[2] == 1 and x.shape[3] == 1) or x.numel() == 0
    if is_batch_norm:
        if torch.is_grad_enabled():
            # Data parallelism waits for the gradient of each parameter that is trained.
            bias = bias + 0 * (gate + instance_weight + instance_bias)
        parameters = Parameters(torch.ones_like(gate), weight, bias, weight, bias)
    chosen = "plain" if is_batch_norm else choose_form(form, x, several)
    if chosen == "triton":
        return triton_form.triton_batch_instance_norm(
            x, parameters, running, num_batches_tracked, training, momentum, eps
        )
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    if (is_batch_norm and not several) or (not training and _is_batch_normalization(x, gate)):
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    used = None if training else running
    if chosen == "native":
        y, batch = native_batch_instance_norm(x, parameters, used, eps)
    else:
        if used is not None and torch.is_grad_enabled() and not torch.jit.is_tracing():
            # Later training moves them in place, perhaps before a backward pass. torch.jit.trace
            # records with gradients and compares with what it records without.
            used = used[0].clone(), used[1].clone()
        y, batch = plain_batch_instance_norm(x, parameters, used, eps, several)
    if training and running is not None:
        count = batch.samples * x.shape[2] * x.shape[3]
        update_running_statistics_(*running, batch.mean, batch.var, count, momentum)
    return y


def choose_form(form: str, x: Tensor, several: bool = False) -> str:
    """Which of "plain", "native" and "triton" computes a feature map, where `form` is asked for.

    Args:
        form: one of `NORM_FORMS`.
        x: feature map (N, C, H, W).
        several: whether the batch is that of several processes.

    Raises:
        NormError: there is no such form, or it is not for the device of `x`.
    """
    check_form(form)
    on_cpu = x.device.type == "cpu"
    # On a CPU the kernels are interpreted, which only those want who ask for it.
    asks = form == "triton" or (form == "auto" and not on_cpu)
    has_triton = asks and triton_form.is_available(x.device)
    if (form == "triton" and not has_triton) or (form == "native" and not on_cpu):
        fault = triton_form.fault_on(x.device) if asks else ""
        reason = f" ({shown(fault)})" if fault else ""
        raise NormError(f"BIN has no {form} form on {x.device}{reason}; choose 'auto'")
    if form == "plain" or several or torch._C._are_functorch_transforms_active():
        return "plain"
    if has_triton and x.dtype in triton_form.DTYPES:
        return "triton"
    return "native" if on_cpu and form in ("auto", "native") and not _is_traced(x) else "plain"


def check_form(form: str) -> None:
    """Refuse, by a `NormError`, a name that is not one of `NORM_FORMS`."""
    if form not in NORM_FORMS:
        raise NormError(f"BIN has no form {form!r}; choose one of {', '.join(NORM_FORMS)}")


def _is_traced(x: Tensor) -> bool:
    """Whether operators are recorded, so that neither values nor Python's choices may matter."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or type(x) not in (Tensor, nn.Parameter)
        or torch._C._are_functorch_transforms_active()
    )


def _is_batch_normalization(x: Tensor, gate: Tensor) -> bool:
    # On a GPU the question would cost more than the statistics: the answer has to be waited for.
    asks = x.device.type == "cpu" and not torch.is_grad_enabled() and not _is_traced(x)
    return asks and bool((gate == 1).all())


def _batch_arguments(layer: nn.BatchNorm2d) -> dict[str, Any]:
    """What `nn.BatchNorm2d` gives to its function, and the counter of its batches, by name."""
    updates = layer.training and layer.track_running_stats
    holds = layer.training and not layer.track_running_stats
    momentum, counter = layer.momentum, layer.num_batches_tracked if updates else None
    if momentum is None:
        momentum = 0.0
        if counter is not None:
            # The cumulative average needs the count itself.
            momentum, counter = 1.0 / float(counter.add_(1)), None
    return {
        "running_mean": None if holds else layer.running_mean,
        "running_var": None if holds else layer.running_var,
        "training": layer.training or layer.running_mean is None,
        "momentum": momentum,
        "eps": layer.eps,
        "num_batches_tracked": counter,
    }


class MixedNorm2d(nn.BatchNorm2d):
    """A layer that computes Eq. 1 (paper section 3.2) with the parameters that a subclass gives it.

    Statistics of the batch half follow `nn.BatchNorm2d`: with `track_running_stats` switched off,
    training uses those of the batch and leaves the running ones as they are (the "hold" of the meta
    step). The instance half always uses those of the instance; a 1x1 feature map has none, and is
    only batch-normalized.

    Args:
        num_features: number of channels C.
        eps: added to both variances before the square root.
        momentum: factor of the new value in the running statistics; None is a cumulative average.

    Attributes:
        synchronize: whether batch statistics are those of all processes of a distributed run.
        form: how to compute it, one of `metabin_plugin.norm.NORM_FORMS`.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.synchronize = False
        self.form = "auto"

    def mixture(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gate, weight and bias of the batch half, weight and bias of the instance half; (C,)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a feature map (N, C, H, W); shape, dtype and memory format stay.

        Raises:
            ValueError: `x` is not 4-D, has another number of channels, or has one value per
                channel in training.
        """
        return batch_instance_norm(
            x,
            *self.mixture(),
            **_batch_arguments(self),
            synchronize=self.synchronize,
            form=self.form,
        )


class BatchInstanceNorm2d(MixedNorm2d):
    """Batch and instance normalization, balanced per channel by a gate (paper section 3.2, Eq. 1).

    The batch half has the names of `nn.BatchNorm2d`, so its checkpoints load with `strict=False`.
    With all gates at 1, where they start, the layer computes what `nn.BatchNorm2d` computes.
    Arguments, attributes and statistics are those of `MixedNorm2d`.
    """

    gate: nn.Parameter
    instance_weight: nn.Parameter
    instance_bias: nn.Parameter

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.gate = nn.Parameter(torch.ones(num_features))
        self.instance_weight = nn.Parameter(torch.ones(num_features))
        self.instance_bias = nn.Parameter(torch.zeros(num_features))

    def reset_parameters(self) -> None:
        """Return to the initial state: unit scale, zero shift, all gates at 1."""
        super().reset_parameters()
        # The parent's constructor calls this before the instance half exists.
        if "gate" in self._parameters:
            nn.init.ones_(self.gate)
            nn.init.ones_(self.instance_weight)
            nn.init.zeros_(self.instance_bias)

    def mixture(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The layer's own gates and affine maps."""
        return self.gate, self.weight, self.bias, self.instance_weight, self.instance_bias


class HalfInstanceNorm2d(MixedNorm2d):
    """The first half of the channels instance-normalized, the others batch-normalized.

    The layer of IBN-Net (Pan et al., "Two at Once", ECCV 2018, variant a), which is the "BN+IN
    half" of the paper's Table 4. The paper does not say which layers it replaces: here it is every
    one. Of an odd number of channels the larger part is batch-normalized. Arguments and statistics
    are those of `MixedNorm2d`, parameters and buffers those of `nn.BatchNorm2d`.

    Attributes:
        gate: 0 for instance-normalized channels, 1 for batch-normalized ones (C,); a constant.
    """

    gate: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        is_batch = torch.arange(num_features) >= num_features // 2
        self.register_buffer("gate", is_batch.to(self.weight.dtype), persistent=False)

    def mixture(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The fixed gates, and the one affine map of both halves twice."""
        return self.gate, self.weight, self.bias, self.weight, self.bias


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose batch is that of all processes of a distributed run.

    With one process it is `nn.BatchNorm2d`, bit for bit. Unlike `nn.SyncBatchNorm` it takes CPU
    tensors and is twice differentiable. Every process needs maps of the same height and width.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a feature map (N, C, H, W); shape and dtype stay.

        Raises:
            ValueError: `x` is not 4-D.
        """
        if not (self.training and are_several()):
            return super().forward(x)
        mixture = torch.ones_like(self.weight), *(self.weight, self.bias) * 2
        return batch_instance_norm(x, *mixture, **_batch_arguments(self), synchronize=True)


class InstanceNorm2d(nn.InstanceNorm2d):
    """`nn.InstanceNorm2d` with an affine map, called as `nn.BatchNorm2d` is (IN in Table 4).

    Checkpoints of `nn.BatchNorm2d` load with `strict=False`: there are no running statistics here.
    It computes the same in training and in evaluation.

    Args:
        num_features: number of channels C.
        eps: added to the variance before the square root.
        momentum: without effect; it is there because norms are called with it.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a feature map (N, C, H, W); shape, dtype and memory format stay.

        Raises:
            NormError: the feature map is 1x1, so that nothing of it would be left.
        """
        if x.shape[2:] == (1, 1):
            raise NormError(
                "instance normalization leaves nothing of a 1x1 feature map; choose larger images "
                "or another norm"
            )
        # PyTorch's own gives a contiguous map whatever it gets.
        return super().forward(x).contiguous(memory_format=memory_format_of(x))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        # PyTorch takes the running statistics of a state dict that names no version for a mistake.
        super()._load_from_state_dict(state_dict, prefix, {"version": 2, **local_metadata}, *args)
