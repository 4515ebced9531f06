"""RepVGG in its form for inference, where each block is one convolution, with any norm.

fastreid makes that form (``network.deploy(True)``) from the running statistics of whatever layer a
block has. Only a layer that is a constant affine map in evaluation can go into a convolution:
batch normalization, and batch-instance normalization whose gates are all 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from fastreid.config import CfgNode
from fastreid.layers.batch_norm import FrozenBatchNorm, GhostBatchNorm, SyncBatchNorm
from fastreid.modeling.backbones.repvgg import RepVGG, RepVGGBlock
from torch import Tensor, nn
from torch.nn import functional

from metabin_plugin.compat.patching import patch
from metabin_plugin.deploy.folding import (
    InferenceNorm2d,
    constant_map,
    has_hooks,
    is_closed,
)
from metabin_plugin.errors import ExportError
from metabin_plugin.norm import BatchInstanceNorm2d, MixedNorm2d, SynchronizedBatchNorm2d

# Layers whose forward in evaluation is known; a subclass may compute anything else.
_KNOWN = {
    layer.forward
    for layer in (
        *(nn.BatchNorm2d, SyncBatchNorm, GhostBatchNorm, FrozenBatchNorm),
        *(MixedNorm2d, SynchronizedBatchNorm2d, InferenceNorm2d),
    )
}


@patch(
    "fastreid.modeling.backbones.repvgg:build_repvgg_backbone",
    fault="A block does not know the config, and with it how far below 1 a gate may be for its "
    "channel to be folded.",
    unless=None,
)
def build_foldable_repvgg(original: Callable[[CfgNode], nn.Module], cfg: CfgNode) -> nn.Module:
    """Tell the blocks ``METABIN.FOLD_TOLERANCE``."""
    network = original(cfg)
    for block in _blocks(network).values():
        block.fold_tolerance = cfg.METABIN.FOLD_TOLERANCE
    return network


@patch(
    "fastreid.modeling.backbones.repvgg:RepVGG.deploy",
    fault="It changes block after block, and leaves a network half changed at one that cannot be.",
    unless="all blocks can be changed.",
)
def deploy_all_or_none(original: Callable[..., None], network: RepVGG, mode: bool = False) -> None:
    """Change all blocks, or refuse and change none."""
    _check(_blocks(network), mode)
    original(network, mode)


@patch(
    "fastreid.modeling.backbones.repvgg:RepVGGBlock.deploy",
    fault="It takes any norm layer for batch normalization, and with it makes another network of "
    "one that has gates. A second call fails.",
    unless=None,
)
def deploy_block(block: RepVGGBlock, mode: bool = False) -> None:
    """Take gates into account, refuse what is no constant map, and do nothing the second time."""
    _check({"": block}, mode)
    if mode and not block.deploying:
        _become_one_convolution(block, _tolerance(block))


class Merged(NamedTuple):
    """What `merge_folded_blocks` did.

    Attributes:
        blocks: blocks that became one convolution.
        channels: of their identity branches, which `fold_norms` had no convolution for.
        layers: number of these branches.
    """

    blocks: int
    channels: int
    layers: int


def merge_folded_blocks(network: nn.Module) -> Merged:
    """Make one convolution of each RepVGG block that `fold_norms` left no open channel, in place.

    Args:
        network: folded.

    Returns:
        Counts.
    """
    merged = [block for block in _blocks(network).values() if _can_merge(block)]
    identities = [b.in_channels for b in merged if isinstance(b.rbr_identity, InferenceNorm2d)]
    for block in merged:
        _become_one_convolution(block, tolerance=0.0)
    return Merged(len(merged), sum(identities), len(identities))


def _can_merge(block: RepVGGBlock) -> bool:
    is_known = not any(has_hooks(layer) for layer in block.modules())
    return not block.deploying and is_known and not any(_faults("", block, tolerance=0.0))


def _check(blocks: dict[str, RepVGGBlock], mode: bool) -> None:
    deployed = [block for block in blocks.values() if block.deploying]
    if not mode and deployed:
        raise ExportError(
            f"deploy(False) cannot give {len(deployed)} RepVGG blocks their branches back; build "
            "the network anew and load its weights"
        )
    if not mode:
        return
    for name, block in blocks.items():
        if block.deploying:
            continue
        fault = next(_faults(name, block, _tolerance(block)), None)
        if fault is not None:
            raise ExportError(
                f"deploy(True) cannot make one convolution of each RepVGG block, for {fault}; "
                f"{_remedy(blocks)}"
            )


def _faults(name: str, block: RepVGGBlock, tolerance: float) -> Iterator[str]:
    """The layers of a block that cannot go into a convolution, in words."""
    for layer_name, (_, norm) in _branches(block).items():
        full_name = f"{name}.{layer_name}".lstrip(".")
        if not _is_known(norm):
            yield f"{full_name} is a {type(norm).__name__}"
        elif _map(norm, block, tolerance) is None:
            if isinstance(norm, BatchInstanceNorm2d):
                count = int((~is_closed(norm.gate, tolerance)).sum())
                below = f"more than {tolerance} below 1" if tolerance else "below 1"
                yield f"{count} of the {norm.num_features} gates of {full_name} are {below}"
            else:
                yield f"{full_name} is a {type(norm).__name__}, which needs the image's statistics"


def _remedy(blocks: dict[str, RepVGGBlock]) -> str:
    norms: list[Any] = [norm for block in blocks.values() for _, norm in _branches(block).values()]
    export = "`metabin export` exports the network as it is"
    if not all(isinstance(norm, BatchInstanceNorm2d) for norm in norms):
        return export
    farthest = max(float((1 - norm.gate.detach()).abs().max()) for norm in norms)
    rounded_up = math.ceil(farthest * 1000) / 1000
    return f"METABIN.FOLD_TOLERANCE {rounded_up} would take all gates for 1, and {export}"


def _become_one_convolution(block: RepVGGBlock, tolerance: float) -> None:
    weight, bias = _one_convolution(block, tolerance)
    dense = block.rbr_dense.conv.weight
    block.fused_weight = nn.Parameter(weight.to(dense.dtype), dense.requires_grad)
    block.fused_bias = nn.Parameter(bias.to(dense.dtype), dense.requires_grad)
    del block.rbr_identity, block.rbr_1x1, block.rbr_dense
    block.deploying = True


@torch.no_grad()
def _one_convolution(block: RepVGGBlock, tolerance: float) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a block without open channels."""
    branches = []
    for convolution, norm in _branches(block).values():
        affine = _map(norm, block, tolerance)
        assert affine is not None
        if convolution is None:
            weight = identity_weight(block.in_channels, block.groups).to(affine[0].device)
            branches.append(Branch(weight, *affine))
        else:
            branches.append(Branch(convolution.weight, *affine, convolution.bias))
    return merge_branches(branches)


def _branches(block: RepVGGBlock) -> dict[str, tuple[nn.Conv2d | None, nn.Module]]:
    """Norm layers by name, each with the convolution in front; none in the identity's."""
    if block.deploying:
        return {}
    branches: dict[str, tuple[nn.Conv2d | None, nn.Module]] = {
        "rbr_dense.bn": (block.rbr_dense.conv, block.rbr_dense.bn),
        "rbr_1x1.bn": (block.rbr_1x1.conv, block.rbr_1x1.bn),
    }
    if block.rbr_identity is not None:
        branches["rbr_identity"] = (None, block.rbr_identity)
    return branches


def _map(norm: nn.Module, block: RepVGGBlock, tolerance: float) -> tuple[Tensor, Tensor] | None:
    """Scale and shift (C,), float64; None if they depend on the image."""
    if isinstance(norm, nn.Identity):
        ones = block.rbr_dense.conv.weight.new_ones(block.rbr_dense.conv.out_channels).double()
        return ones, torch.zeros_like(ones)
    return constant_map(norm, tolerance)


def _is_known(norm: nn.Module) -> bool:
    has_statistics = getattr(norm, "running_mean", None) is not None
    is_norm = type(norm).forward in _KNOWN and (has_statistics or isinstance(norm, InferenceNorm2d))
    return is_norm or type(norm) is nn.Identity


def _tolerance(block: RepVGGBlock) -> float:
    return getattr(block, "fold_tolerance", 0.0)


def _blocks(network: nn.Module) -> dict[str, RepVGGBlock]:
    return {name: m for name, m in network.named_modules() if isinstance(m, RepVGGBlock)}


@dataclass(frozen=True)
class Branch:
    """``scale * (weight convolved with x + bias) + shift``.

    Attributes:
        weight: (C, C_in / groups, k, k), k odd; padded so that with stride 1 the map keeps its
            size.
        scale: (C,).
        shift: (C,).
        bias: (C,), or None for none.
    """

    weight: Tensor
    scale: Tensor
    shift: Tensor
    bias: Tensor | None = None


def identity_weight(channels: int, groups: int) -> Tensor:
    """Weight (C, C / groups, 1, 1), float64, of a convolution that leaves its input as it is.

    Args:
        channels: their number C, a multiple of ``groups``.
        groups: of the convolution.
    """
    return torch.eye(channels // groups, dtype=torch.float64).repeat(groups, 1)[:, :, None, None]


def merge_branches(branches: Sequence[Branch]) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of the one convolution that computes the sum of all branches.

    Args:
        branches: of the same stride, groups and channels.

    Returns:
        Weight (C, C_in / groups, k, k), k being that of the largest branch; and bias (C,).
    """
    size = max(branch.weight.shape[-1] for branch in branches)
    weights, biases = [], []
    for branch in branches:
        margin = (size - branch.weight.shape[-1]) // 2
        weight = functional.pad(branch.weight, [margin] * 4)
        weights.append(weight * branch.scale.double()[:, None, None, None])
        bias = branch.shift.double()
        if branch.bias is not None:
            bias = bias + branch.scale.double() * branch.bias
        biases.append(bias)
    return torch.stack(weights).sum(0), torch.stack(biases).sum(0)
