"""Folding norm layers into the convolutions before them, and the layer that stays of one."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn

from metabin_plugin.errors import NormError
from metabin_plugin.norm import native
from metabin_plugin.norm.batch_instance_norm import (
    InstanceNorm2d,
    MixedNorm2d,
    SynchronizedBatchNorm2d,
    choose_form,
)
from metabin_plugin.norm.formula import dense, instance_statistics, over_map
from metabin_plugin.norm.network import substitute
from metabin_plugin.precision import at_least_float32

logger = logging.getLogger(__name__)


# Layers whose forward in evaluation is known; a subclass may compute anything else.
_KNOWN = {layer.forward for layer in (nn.BatchNorm2d, MixedNorm2d, SynchronizedBatchNorm2d)}
_KNOWN_INSTANCE = {layer.forward for layer in (nn.InstanceNorm2d, InstanceNorm2d)}


class InferenceNorm2d(nn.Module):
    """Eq. 1 at fixed gates and running statistics: one affine map per (sample, channel).

    Only open channels, those whose gate is not 1, need statistics of the instance; in all others
    the map is a constant. Statistics are taken of the open channels alone, unless these are so many
    that it is faster to take them of all. The operators are reductions, additions and
    multiplications, which every inference engine has. As in `BatchInstanceNorm2d`, a 1x1 feature
    map is only batch-normalized.

    Args:
        gate: balancing parameter rho (C,).
        scale: scale of the batch half, its affine and running variance in one (C,).
        shift: shift of the batch half (C,).
        instance_weight: affine weight of the instance half (C,).
        instance_bias: affine bias of the instance half (C,).
        eps: added to the instance variance before the square root.

    Attributes:
        open_channels: indices of the open channels, ascending.
    """

    scale: Tensor
    shift: Tensor
    mixed_scale: Tensor
    mixed_shift: Tensor
    instance_scale: Tensor
    open_channels: Tensor
    place: Tensor

    def __init__(
        self,
        gate: Tensor,
        scale: Tensor,
        shift: Tensor,
        instance_weight: Tensor,
        instance_bias: Tensor,
        eps: float,
    ) -> None:
        super().__init__()
        is_open = gate != 1
        # Where an open channel is among the open ones; any place will do for the others, whose
        # instance scale is 0.
        place = (is_open.cumsum(0) - 1).clamp_(min=0)
        for name, value in {
            "scale": scale,
            "shift": shift,
            "mixed_scale": gate * scale,
            "mixed_shift": gate * shift + (1 - gate) * instance_bias,
            "instance_scale": (1 - gate) * instance_weight,
            "open_channels": is_open.nonzero()[:, 0],
            "place": place,
        }.items():
            # Shaped like the feature map, or an exported network would reshape them at every call.
            is_index = name in ("open_channels", "place")
            self.register_buffer(name, value if is_index else value.detach().view(-1, 1, 1).clone())
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a feature map.

        Args:
            x: feature map (N, C, H, W).

        Returns:
            Normalized feature map of the same shape, dtype and memory format.
        """
        if len(self.open_channels) == 0 or (x.shape[2] == 1 and x.shape[3] == 1):
            return torch.addcmul(self.shift, at_least_float32(x), self.scale).to(x.dtype)
        x = dense(x)
        scale, shift = self._mixed_affine(x)
        if not _is_native(x):
            return torch.addcmul(shift, at_least_float32(x), scale).to(x.dtype)
        return native.affine(x, scale.flatten(1), shift.flatten(1))

    def _mixed_affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gathers = self._gathers(x)
        needed = x.index_select(1, self.open_channels) if gathers else x
        if _is_native(needed):
            mean, var = (over_map(values) for values in native.statistics(needed))
        else:
            # Dimensions are kept, or an exported network would reshape at every call.
            mean, var = instance_statistics(at_least_float32(needed), keepdim=True)
        factor = torch.rsqrt(var + self.eps)
        if gathers:
            mean, factor = (part.index_select(1, self.place) for part in (mean, factor))
        scale = self.instance_scale * factor
        return self.mixed_scale + scale, self.mixed_shift - scale * mean

    def _gathers(self, values: Tensor) -> bool:
        """Whether copying the open channels costs less than the statistics of all."""
        share = len(self.open_channels) / len(self.place)
        # In channels_last some of the channels are no block of memory.
        return share <= (0.75 if values.is_contiguous() else 0.25)

    def extra_repr(self) -> str:
        """Channels and open channels, for the printed network."""
        return f"{len(self.place)}, open={len(self.open_channels)}, eps={self.eps}"


def _is_native(x: Tensor) -> bool:
    # The native passes have no derivative of their own.
    differentiates = torch.is_grad_enabled() and x.requires_grad
    return not differentiates and choose_form("auto", x) == "native"


def feeding_convolutions(
    network: nn.Module, norms: Collection[nn.Module]
) -> dict[nn.Module, nn.Conv2d]:
    """The convolutions whose output goes into one normalization layer and nowhere else.

    The forward functions are traced symbolically (`torch.fx`). Where one cannot be traced, the
    debug log says so and its submodules are traced one by one, as if each were only called as a
    whole; convolutions that the function itself calls are then not found.

    Args:
        network: in evaluation mode.
        norms: normalization layers of the network.

    Returns:
        Normalization layer to the `nn.Conv2d` in front of it, where there is one that feeds it
        alone and both are called once.
    """
    if network in norms or not any(module in norms for module in network.modules()):
        return {}
    tracer = _Tracer(norms)
    try:
        graph = tracer.trace(network)
    # What a forward function makes of symbolic values has no common type.
    except Exception as error:
        if not isinstance(network, nn.ModuleList | nn.ModuleDict):
            logger.debug(
                "%s cannot be traced as a whole (%s); its submodules are traced one by one",
                type(network).__name__,
                str(error).split(".")[0],
            )
        found: dict[nn.Module, nn.Conv2d] = {}
        for child in network.children():
            found.update(feeding_convolutions(child, norms))
        return found
    return _pairs(network, graph, norms)


def has_hooks(module: nn.Module) -> bool:
    """Whether a module computes more than its forward says.

    Args:
        module: any.
    """
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Tracer(fx.Tracer):
    """Symbolic tracing that does not look into the normalization layers."""

    def __init__(self, norms: Collection[nn.Module]) -> None:
        super().__init__()
        self._norms = norms

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_norm = m in self._norms or isinstance(m, nn.InstanceNorm2d)
        return is_norm or super().is_leaf_module(m, module_qualified_name)


def _pairs(
    network: nn.Module, graph: fx.Graph, norms: Collection[nn.Module]
) -> dict[nn.Module, nn.Conv2d]:
    modules: dict[Any, nn.Module] = {
        node: network.get_submodule(str(node.target))
        for node in graph.nodes
        if node.op == "call_module"
    }
    calls = Counter(modules.values())
    # Weights that a forward function reads by itself must stay as they are.
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    pairs = {}
    for node, norm in modules.items():
        source: Any = node.args[0] if node.args else None
        convolution = modules.get(source)
        if (
            norm in norms
            and type(convolution) is nn.Conv2d
            and calls[norm] == calls[convolution] == 1
            and list(source.users) == [node]
            and source.target not in read
            and not has_hooks(convolution)
        ):
            pairs[norm] = convolution
    return pairs


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
        raise NormError(f"the tolerance of folding is {tolerance!r}; give a number in [0, 1]")
    network = copy.deepcopy(module).eval().requires_grad_(False)
    original = None if probe is None else copy.deepcopy(network)(probe)
    norms = {name: layer for name, layer in network.named_modules() if _can_fold(layer)}
    convolutions = feeding_convolutions(network, set(norms.values()))
    replacements: dict[nn.Module, nn.Module] = {}
    counts = torch.zeros(4, dtype=torch.int64)
    for layer in norms.values():
        replacements[layer], own = _fold(layer, convolutions.get(layer), tolerance)
        counts += own
    instance_norms = [layer for layer in network.modules() if _is_instance_norm(layer)]
    replacements |= {layer: _for_inference(layer) for layer in instance_norms}
    affine = [name for name, layer in norms.items() if layer not in convolutions]
    if affine:
        logger.info("No convolution feeds these layers alone: %s", ", ".join(affine))
    network = replacements.get(network, network)
    substitute(network, replacements)
    folded, constant, still_open, rounded = counts.tolist()
    return Folding(
        network,
        layers=len(replacements),
        identities=sum(isinstance(new, nn.Identity) for new in replacements.values()),
        folded_channels=folded,
        affine_channels=constant,
        open_channels=still_open + sum(layer.num_features for layer in instance_norms),
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


def _is_instance_norm(layer: nn.Module) -> TypeGuard[nn.InstanceNorm2d]:
    return (
        isinstance(layer, nn.InstanceNorm2d)
        and type(layer).forward in _KNOWN_INSTANCE
        and layer.affine
        # With running statistics it computes something else in evaluation.
        and layer.running_mean is None
        and not has_hooks(layer)
    )


def _for_inference(layer: nn.InstanceNorm2d) -> InferenceNorm2d:
    zeros = torch.zeros_like(layer.weight)
    # Of a 1x1 map, less its own mean, the shift alone is left.
    return InferenceNorm2d(zeros, zeros, layer.bias, layer.weight, layer.bias, layer.eps).eval()


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
