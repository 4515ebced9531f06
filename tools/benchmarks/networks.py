"""The networks that are measured, and the feature maps that their norm layers get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from fastreid.modeling.backbones import build_backbone
from torch import Tensor, nn

from metabin_plugin.engine import read_config

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "MetaBIN.yml")
Shape = tuple[int, ...]

# KEY VALUE pairs on top of the paper's config; ResNet-18 is for a quick look.
BACKBONES: dict[str, list[str]] = {
    "mobilenetv2": ["MODEL.BACKBONE.DEPTH", "1.4x", "MODEL.BACKBONE.FEAT_DIM", "1792"],
    "resnet50": [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *("MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.FEAT_DIM", "2048"),
    ],
    "resnet18": [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *("MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", "512"),
    ],
}


def norm_shapes(backbone: str, size: Sequence[int], batch: int) -> dict[Shape, int]:
    """The feature maps that a backbone normalizes.

    Args:
        backbone: a key of ``BACKBONES``.
        size: height and width of the images.
        batch: number of images.

    Returns:
        Each shape (N, C, H, W), and how many layers get it; the layers are 53 with both networks
        of the paper.
    """
    options = ["MODEL.BACKBONE.PRETRAIN", "False", "MODEL.BACKBONE.NORM", "BN"]
    cfg = read_config(CONFIG, [*BACKBONES[backbone], *options])
    shapes: Counter[Shape] = Counter()

    def count(_layer: nn.Module, inputs: tuple[Tensor]) -> None:
        shapes[tuple(inputs[0].shape)] += 1

    # Without memory and arithmetic: only the shapes are asked for.
    with torch.device("meta"):
        network = build_backbone(cfg)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_pre_hook(count)
        network(torch.empty((batch, 3, *size)))
    return dict(shapes)
