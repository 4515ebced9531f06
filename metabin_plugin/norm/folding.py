"""Folding normalization layers into the convolutions in front of them, for inference."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn

from metabin_plugin.errors import NormError
from metabin_plugin.norm.batch_instance_norm import MixedNorm2d, SynchronizedBatchNorm2d
from metabin_plugin.norm.convert import substitute
from metabin_plugin.norm.convolutions import feeding_convolutions, has_hooks
from metabin_plugin.norm.evaluation_map import batch_map, instance_half, is_closed
from metabin_plugin.norm.inference_norm import InferenceNorm2d

logger = logging.getLogger(__name__)

# Layers whose forward in evaluation is known; a subclass may compute anything else.
_KNOWN = {layer.forward for layer in (nn.BatchNorm2d, MixedNorm2d, SynchronizedBatchNorm2d)}


@dataclass(frozen=True)
class Folding:
    """A network for inference, and what became of its normalized channels.

    Attributes:
        network: the folded copy, in evaluation mode, without gradients.
        layers: normalization layers that were folded or replaced.
        identities: those of them that are gone, having no open channel.
        folded_channels: channels normalized by the weights of a convolution.
        affine_channels: channels with no convolution to fold into; a constant affine map each.
        open_channels: channels with a gate below 1, which need statistics of the instance.
        rounded_channels: channels with a gate below 1, but within the tolerance; they are not open.
        difference: largest difference of the network's output on the probe from what it was, as a
            share of the largest value; None without a probe.
    """

    network: nn.Module
    layers: int
    identities: int
    folded_channels: int
    affine_channels: int
    open_channels: int
    rounded_channels: int
    difference: float | None = None

    def __str__(self) -> str:
        text = (
            f"{self.layers} normalization layers, {self.identities} of them gone; channels: "
            f"{self.folded_channels} folded into convolutions, {self.affine_channels} a constant "
            f"affine map, {self.open_channels} open, {self.rounded_channels} rounded to batch "
            "normalization"
        )
        if self.difference is not None:
            text += f"; largest relative difference on the probe {self.difference:.1e}"
        return text


@torch.no_grad()
def fold_norms(module: nn.Module, tolerance: float = 0.0, probe: Tensor | None = None) -> Folding:
    """A copy of a network for inference, normalized by its convolutions wherever gates are 1.

    A channel whose gate is 1 is batch-normalized, and in evaluation that is a constant affine map:
    it goes into the weights of the convolution in front. A layer all of whose channels do becomes
    an identity; one with open channels an `InferenceNorm2d`, which needs statistics of those alone.
    Where no convolution feeds the layer alone, as `feeding_convolutions` finds out, the map stays,
    and the log names the layer. Plain `nn.BatchNorm2d` is folded too; its subclasses with a forward
    of their own, and layers without running statistics, are left as they are.

    Args:
        module: network; it is not changed. At tolerance 0 the copy computes what the network does
            in evaluation, up to rounding.
        tolerance: how far below 1 a gate is taken for 1, in [0, 1].
        probe: input on which both networks are run to measure `Folding.difference`. The output
            must be a tensor.

    Returns:
        The copy, with counts.

    Raises:
        NormError: `tolerance` is not in [0, 1].
    """
    if not 0 <= tolerance <= 1:
        raise NormError(f"the tolerance of folding is {tolerance}; give a number in [0, 1]")
    network = copy.deepcopy(module).eval().requires_grad_(False)
    original = None if probe is None else copy.deepcopy(network)(probe)
    norms = {name: layer for name, layer in network.named_modules() if _can_fold(layer)}
    convolutions = feeding_convolutions(network, set(norms.values()))
    replacements: dict[nn.Module, nn.Module] = {}
    counts = torch.zeros(4, dtype=torch.int64)
    for layer in norms.values():
        replacements[layer], own = _fold(layer, convolutions.get(layer), tolerance)
        counts += own
    affine = [name for name, layer in norms.items() if layer not in convolutions]
    if affine:
        logger.info("No convolution feeds these layers alone: %s", ", ".join(affine))
    network = replacements.get(network, network)
    substitute(network, replacements)
    folded, constant, still_open, rounded = counts.tolist()
    return Folding(
        network,
        layers=len(norms),
        identities=sum(isinstance(new, nn.Identity) for new in replacements.values()),
        folded_channels=folded,
        affine_channels=constant,
        open_channels=still_open,
        rounded_channels=rounded,
        difference=None if original is None else relative_difference(network(probe), original),
    )


def _can_fold(layer: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return (
        isinstance(layer, nn.BatchNorm2d)
        and type(layer).forward in _KNOWN
        and layer.running_mean is not None
        and not has_hooks(layer)
    )


def _fold(
    layer: nn.BatchNorm2d, convolution: nn.Conv2d | None, tolerance: float
) -> tuple[nn.Module, Tensor]:
    """What takes the layer's place; its channels folded, constant affine, open and rounded (4,)."""
    assert layer.running_mean is not None
    dtype = layer.running_mean.dtype
    # In float64: the products are rounded once, to the layer's own dtype.
    scale, shift = batch_map(layer)
    gate, instance_weight, instance_bias = instance_half(layer, like=scale)
    closed = is_closed(gate, tolerance)
    rounded = closed & (gate != 1)
    folds = closed & (convolution is not None)
    if convolution is not None:
        _scale_outputs_(convolution, scale.where(folds, 1.0), shift.where(folds, 0.0))
        scale, shift = scale.masked_fill(folds, 1), shift.masked_fill(folds, 0)
    counts = torch.stack([folds, closed & ~folds, ~closed, rounded]).sum(1).cpu()
    if folds.all():
        return nn.Identity(), counts
    gate = gate.masked_fill(closed, 1)
    new = InferenceNorm2d(gate, scale, shift, instance_weight, instance_bias, layer.eps)
    return new.to(dtype).eval(), counts


def _scale_outputs_(convolution: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    """Let a convolution compute ``scale * y + shift`` (C,) in place of y."""
    weight, bias = convolution.weight, convolution.bias
    new_weight = weight.double() * scale[:, None, None, None]
    new_bias = shift if bias is None else bias.double() * scale + shift
    # New parameters, since another layer may share the old ones.
    convolution.weight = nn.Parameter(new_weight.to(weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(new_bias.to(weight.dtype), requires_grad=False)


def relative_difference(values: Tensor, reference: Tensor) -> float:
    """The largest difference of two tensors, as a share of the largest value of the reference."""
    return float((values - reference).abs().max() / reference.abs().max())
