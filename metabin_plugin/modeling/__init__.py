"""The MetaBIN meta-architecture and the backbones that fastreid lacks."""

from metabin_plugin.modeling.backbones import (
    route_mobilenetv2,
    route_norm_layers,
    route_norms,
    route_pretrained,
    route_resnet,
)
from metabin_plugin.modeling.dual_norm import insert_dual_norm
from metabin_plugin.modeling.meta_arch import MetaBIN
from metabin_plugin.modeling.meta_losses import META_LOSSES, MetaRows, logged_name
from metabin_plugin.modeling.mobilenetv2 import MobileNetV2

__all__ = [
    "META_LOSSES",
    "MetaBIN",
    "MetaRows",
    "MobileNetV2",
    "insert_dual_norm",
    "logged_name",
    "route_mobilenetv2",
    "route_norm_layers",
    "route_norms",
    "route_pretrained",
    "route_resnet",
]
