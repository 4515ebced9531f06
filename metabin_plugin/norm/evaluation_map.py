"""What batch and mixed normalization layers compute in evaluation, as affine maps per channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metabin_plugin.norm.batch_instance_norm import MixedNorm2d
from metabin_plugin.norm.inference_norm import InferenceNorm2d


def batch_map(layer: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,), float64, of batch normalization with running statistics.

    Args:
        layer: a module with running statistics; its affine parameters may be None.
    """
    scale = torch.rsqrt(layer.running_var.double() + layer.eps)
    if layer.weight is not None:
        scale = scale * layer.weight.double()
    shift = -scale * layer.running_mean.double()
    return scale, shift if layer.bias is None else shift + layer.bias.double()


def instance_half(layer: nn.Module, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gates, instance weight and instance bias (C,), float64; batch normalization has gates 1.

    Args:
        layer: a batch or mixed normalization layer.
        like: any values (C,), float64, on its device.
    """
    if isinstance(layer, MixedNorm2d):
        gate, _, _, instance_weight, instance_bias = layer.mixture()
        return gate.double(), instance_weight.double(), instance_bias.double()
    return torch.ones_like(like), torch.ones_like(like), torch.zeros_like(like)


def is_closed(gate: Tensor, tolerance: float) -> Tensor:
    """Which gates (C,) are taken for 1: those that are no farther from it than the tolerance."""
    return (1 - gate).abs() <= tolerance


def constant_map(layer: nn.Module, tolerance: float) -> tuple[Tensor, Tensor] | None:
    """Scale and shift (C,), float64, of a layer that is a constant affine map in evaluation.

    Args:
        layer: a batch or mixed normalization layer with running statistics, or what `fold_norms`
            left of one.
        tolerance: how far below 1 a gate is taken for 1.

    Returns:
        None if a channel is open, so that its map depends on the image.
    """
    if isinstance(layer, InferenceNorm2d):
        if len(layer.open_channels):
            return None
        return layer.scale.double().flatten(), layer.shift.double().flatten()
    scale, shift = batch_map(layer)
    gate, _, _ = instance_half(layer, like=scale)
    return (scale, shift) if is_closed(gate, tolerance).all() else None
