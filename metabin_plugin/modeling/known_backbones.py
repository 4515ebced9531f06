"""Backbones that ImageNet weights and checkpoints are compared with, without their memory."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from fastreid.config import get_cfg
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from torch import Tensor, nn

from metabin_plugin.modeling.weight_fit import first_difference, shapes, state_for

MOBILENETV2 = "build_mobilenetv2_backbone"
RESNET = "build_resnet_backbone"


@dataclass(frozen=True)
class KnownBackbone:
    """Values of ``MODEL.BACKBONE``.

    Attributes:
        name: ``NAME``.
        depth: ``DEPTH``.
        with_ibn: ``WITH_IBN``.
    """

    name: str
    depth: str
    with_ibn: bool = False

    def __str__(self) -> str:
        ibn = ", WITH_IBN True" if self.with_ibn else ""
        return f"NAME {self.name}, DEPTH {self.depth}{ibn}"

    def build(self) -> nn.Module:
        """The backbone with batch normalization, on the meta device: shapes without values."""
        cfg = get_cfg()
        backbone = cfg.MODEL.BACKBONE
        backbone.NAME, backbone.DEPTH, backbone.WITH_IBN = self.name, self.depth, self.with_ibn
        backbone.NORM, backbone.PRETRAIN = "BN", False
        with torch.device("meta"):
            return BACKBONE_REGISTRY.get(self.name)(cfg)


_MOBILENETV2_DEPTHS = ("1.4x", "1.0x-paper", "1.4x-rounded", "1.0x", "0.75x", "0.5x", "0.35x")
_RESNET_DEPTHS = ("18x", "34x", "50x", "101x")
BACKBONES = (
    *(KnownBackbone(MOBILENETV2, depth) for depth in _MOBILENETV2_DEPTHS),
    *(KnownBackbone(RESNET, depth, ibn) for ibn in (False, True) for depth in _RESNET_DEPTHS),
)


def fitting_backbones(weights: Mapping[str, Tensor]) -> list[KnownBackbone]:
    """Those of ``BACKBONES`` that a file's state dict fits.

    Args:
        weights: the state dict, names as in the file.
    """
    return [backbone for backbone in BACKBONES if _fits(backbone, weights)]


def _fits(backbone: KnownBackbone, weights: Mapping[str, Tensor]) -> bool:
    network = _network(backbone)
    return (
        first_difference(shapes(network.state_dict()), shapes(state_for(network, weights))) is None
    )


@functools.cache
def _network(backbone: KnownBackbone) -> nn.Module:
    return backbone.build()
