"""The paper's MobileNetV2 (Section 4.1: multiplier 1.4, 53 normalization layers)."""

from __future__ import annotations

import math

from torch import Tensor, nn

# Expansion, channels at multiplier 1, blocks and stride of the stages (MobileNetV2, Table 2).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Inverted residual block: 1x1 expansion, 3x3 depthwise and linear 1x1 convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        expansion: hidden channels per input channel. At 1 the expansion convolution is there all
            the same, unlike in the standard network.
        stride: stride of the depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *_conv_norm_relu6(in_channels, hidden, 1),
            *_conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Feature map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 with the paper's 53 normalization layers and its channel rule.

    Two things differ from the standard network of fastreid, torchvision and timm: the first block
    has an expansion convolution, and a stage has ``int(channels * width)`` channels rather than
    the next multiple of 8. At width 1.4 that makes 23,822 normalized channels (Section 4.1).

    Args:
        width: channel multiplier.
        last_stride: stride of the last strided stage; 1 gives a 16 x 8 map at 256 x 128.
    """

    def __init__(self, width: float = 1.4, last_stride: int = 1) -> None:
        super().__init__()
        channels = int(32 * width)
        layers: list[nn.Module] = [nn.Sequential(*_conv_norm_relu6(3, channels, 3, 2))]
        last_strided = max(i for i, stage in enumerate(STAGES) if stage[3] == 2)
        for i, (expansion, base, blocks, stage_stride) in enumerate(STAGES):
            stride = last_stride if i == last_strided else stage_stride
            for block in range(blocks):
                out = int(base * width)
                first_stride = stride if block == 0 else 1
                layers.append(InvertedResidual(channels, out, expansion, first_stride))
                channels = out
        self.out_channels = int(1280 * width)
        layers.append(nn.Sequential(*_conv_norm_relu6(channels, self.out_channels, 1)))
        self.features = nn.Sequential(*layers)
        self._init_convolutions()

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to a feature map (N, out_channels, H / 16, W / 16) at stride 1."""
        return self.features(x)

    def _init_convolutions(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
                nn.init.normal_(layer.weight, std=math.sqrt(2 * layer.groups / fan_out))


def _conv_norm_relu6(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module]:
    padding = kernel // 2
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False
    )
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True)
