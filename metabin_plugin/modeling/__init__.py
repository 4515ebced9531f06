"""The MetaBIN meta-architecture and the backbones that fastreid lacks."""

from metabin_plugin.modeling.backbones import (
    route_mobilenetv2,
    route_norm_layers,
    route_norms,
    route_pretrained,
    route_weights,
)
from metabin_plugin.modeling.dual_norm import insert_dual_norm
from metabin_plugin.modeling.meta_arch import META_LOSSES, MetaBIN, MetaRows, logged_name
from metabin_plugin.modeling.mobilenetv2 import MobileNetV2
from metabin_plugin.modeling.repvgg import (
    merge_folded_blocks,
    route_block_deployment,
    route_network_deployment,
    route_repvgg,
)

__all__ = [
    "META_LOSSES",
    "MetaBIN",
    "MetaRows",
    "MobileNetV2",
    "insert_dual_norm",
    "logged_name",
    "merge_folded_blocks",
    "route_block_deployment",
    "route_mobilenetv2",
    "route_network_deployment",
    "route_norm_layers",
    "route_norms",
    "route_pretrained",
    "route_repvgg",
    "route_weights",
]
