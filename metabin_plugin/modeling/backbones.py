"""Backbones through fastreid's registry: the paper's MobileNetV2, and any norm for any backbone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastreid.config import CfgNode
from fastreid.modeling.backbones.mobilenet import MobileNetV2 as StandardMobileNetV2
from torch import nn

from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling.mobilenetv2 import MobileNetV2
from metabin_plugin.modeling.weights import load_imagenet_weights
from metabin_plugin.norm import convert_norm, count_gates
from metabin_plugin.registries import NORM_REGISTRY, registered

logger = logging.getLogger(__name__)

Builder = Callable[[CfgNode], nn.Module]

# MODEL.BACKBONE.DEPTH of the paper's variant, to its channel multiplier.
PAPER_WIDTHS = {"1.4x": 1.4, "1.0x-paper": 1.0}
# The standard network at 1.4 (channels rounded to multiples of 8), which fastreid does not offer.
ROUNDED_DEPTH = "1.4x-rounded"


def route_mobilenetv2(original: Builder) -> Builder:
    """Give fastreid's MobileNetV2 builder three more values of ``MODEL.BACKBONE.DEPTH``.

    ``"1.4x"`` and ``"1.0x-paper"`` are the paper's variant and honour ``LAST_STRIDE``;
    ``"1.4x-rounded"`` is the standard network. Every other depth goes to ``original``.
    """

    def build_mobilenetv2_backbone(cfg: CfgNode) -> nn.Module:
        backbone = cfg.MODEL.BACKBONE
        if backbone.DEPTH == ROUNDED_DEPTH:
            if backbone.PRETRAIN:
                raise ConfigError(
                    f"MODEL.BACKBONE.PRETRAIN: no weights can be loaded at DEPTH {ROUNDED_DEPTH!r} "
                    "yet; set it False, or use DEPTH '1.4x'"
                )
            return StandardMobileNetV2(backbone.NORM, 1.4)
        if backbone.DEPTH not in PAPER_WIDTHS:
            return original(cfg)
        network = MobileNetV2(PAPER_WIDTHS[backbone.DEPTH], backbone.LAST_STRIDE)
        if backbone.PRETRAIN:
            load_imagenet_weights(network, backbone.PRETRAIN_PATH)
        return network

    return build_mobilenetv2_backbone


def route_norms(original: Builder) -> Builder:
    """Let ``MODEL.BACKBONE.NORM`` name an entry of ``NORM_REGISTRY``, for any backbone.

    The backbone is built with batch normalization and gets its pretrained weights; then its norm
    layers are replaced, so that ImageNet weights are those of batch normalization.
    """

    def build_backbone(cfg: CfgNode) -> nn.Module:
        name = cfg.MODEL.BACKBONE.NORM
        if name not in registered(NORM_REGISTRY):
            return original(cfg)
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.BACKBONE.NORM = "BN"
        network = convert_norm(original(cfg), NORM_REGISTRY.get(name))
        layers, gates = count_gates(network)
        logger.info("MODEL.BACKBONE.NORM %s: %d layers with %d gates", name, layers, gates)
        return network

    return build_backbone


def route_norm_layers(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let fastreid's ``get_norm`` make the layers of ``NORM_REGISTRY`` too, frozen parts included.

    Some meta-architectures (MGN) build blocks of their own besides the backbone's.
    """

    def get_norm(norm: Any, out_channels: int, **kwargs: Any) -> Any:
        if norm in registered(NORM_REGISTRY):
            layer = original("BN", out_channels, **kwargs)
            return convert_norm(layer, NORM_REGISTRY.get(norm))
        return original(norm, out_channels, **kwargs)

    return get_norm
