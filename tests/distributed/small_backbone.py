"""A backbone small enough for whole iterations in float64 on several processes."""

from __future__ import annotations

from fastreid.config import CfgNode
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from torch import nn

# Every map has 32 pixels or more: instance normalization of a few is ill-conditioned, and would
# amplify the rounding of another order of summation beyond the equality that is tested.
OPTIONS = ["MODEL.BACKBONE.NAME", "build_small_backbone", "MODEL.BACKBONE.FEAT_DIM", "24"]


@BACKBONE_REGISTRY.register()
def build_small_backbone(cfg: CfgNode) -> nn.Module:
    """Three convolutions, each with a norm layer."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.Softplus()),
    )
