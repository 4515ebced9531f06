"""DualNorm: instance normalization in the shallow blocks of a backbone.

Jia, Ruan and Hospedales, "Frustratingly Easy Person Re-Identification: Generalizing Person Re-ID in
Practice", BMVC 2019. Its other half, the normalization of the features after pooling without a
shift, is fastreid's BNNeck (``MODEL.HEADS.WITH_BNNECK``).

Which blocks are shallow is known from the authors' published networks. MobileNetV2: the first
convolution, whose batch normalization becomes instance normalization, and every block but those of
the last two stages. ResNet: the last block of each stage but the last. In a block, instance
normalization comes after the sum with the shortcut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastreid.modeling.backbones.mobilenet import InvertedResidual as StandardInvertedResidual
from fastreid.modeling.backbones.mobilenet import MobileNetV2 as StandardMobileNetV2
from fastreid.modeling.backbones.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from metabin_plugin.errors import NormError
from metabin_plugin.modeling.mobilenetv2 import STAGES, InvertedResidual, MobileNetV2
from metabin_plugin.norm import InstanceNorm2d, convert_norm

_DEEP_STAGES = 2


def insert_dual_norm(network: nn.Module) -> nn.Module:
    """Give a backbone the instance normalization of DualNorm, in place.

    What was in the backbone keeps its values and, in the state dict, its names. The new layers
    start with unit scale and zero shift; the one in the place of MobileNetV2's first batch
    normalization starts with that one's.

    Args:
        network: the backbone, with batch normalization and its pretrained weights.

    Returns:
        ``network``.

    Raises:
        NormError: it is no MobileNetV2 or ResNet.
    """
    if isinstance(network, MobileNetV2 | StandardMobileNetV2):
        _normalize_mobilenetv2(network.features)
    elif isinstance(network, ResNet):
        for stage in (network.layer1, network.layer2, network.layer3):
            stage[-1] = NormalizedResNetBlock(stage[-1])
    else:
        raise NormError(
            f"MODEL.BACKBONE.NORM 'DualNorm' is not defined for {type(network).__name__}; choose "
            "MODEL.BACKBONE.NAME build_mobilenetv2_backbone or build_resnet_backbone"
        )
    return network


class NormalizedInvertedResidual(nn.Module):
    """A block of MobileNetV2 with instance normalization of its output.

    Args:
        block: the block, whose layers it takes.
    """

    def __init__(self, block: InvertedResidual | StandardInvertedResidual) -> None:
        super().__init__()
        is_own = isinstance(block, InvertedResidual)
        self.has_shortcut = bool(block.has_shortcut if is_own else block.identity)
        self.conv = block.conv
        # The normalization of the linear convolution.
        last: Any = block.conv[-1]
        self.instance_norm = _instance_norm(last)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        y = self.conv(x)
        return self.instance_norm(x + y if self.has_shortcut else y)


class NormalizedResNetBlock(nn.Module):
    """A block of ResNet with instance normalization between its sum and the activation after it.

    Args:
        block: fastreid's ``BasicBlock`` or ``Bottleneck``, whose layers it takes.
    """

    relu: Callable[[Tensor], Tensor]
    se: Callable[[Tensor], Tensor]

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.downsample: nn.Module | None = block.downsample
        self.num_convolutions = 3 if isinstance(block, Bottleneck) else 2
        self.instance_norm = _instance_norm(getattr(block, f"bn{self.num_convolutions}"))

    def forward(self, x: Tensor) -> Tensor:
        """Feature map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        residual = x
        for number in range(1, self.num_convolutions + 1):
            if number > 1:
                residual = self.relu(residual)
            residual = getattr(self, f"conv{number}")(residual)
            residual = getattr(self, f"bn{number}")(residual)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.instance_norm(self.se(residual) + shortcut))


def _normalize_mobilenetv2(features: nn.Sequential) -> None:
    stem: Any = features[0]
    stem[1] = convert_norm(stem[1], InstanceNorm2d)
    shallow = sum(blocks for _, _, blocks, _ in STAGES[:-_DEEP_STAGES])
    for index in range(1, shallow + 1):
        block: Any = features[index]
        features[index] = NormalizedInvertedResidual(block)


def _instance_norm(before: nn.BatchNorm2d) -> InstanceNorm2d:
    """A layer for the sum that another one's output is part of, on the same device."""
    return InstanceNorm2d(before.num_features).to(before.weight)
