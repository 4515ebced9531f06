"""The MetaBIN meta-architecture and the backbones that fastreid lacks."""

from metabin_plugin.modeling.dual_norm import insert_dual_norm
from metabin_plugin.modeling.meta_arch import META_LOSSES, MetaBIN, MetaRows, logged_name
from metabin_plugin.modeling.mobilenetv2 import MobileNetV2

__all__ = [
    "META_LOSSES",
    "MetaBIN",
    "MetaRows",
    "MobileNetV2",
    "insert_dual_norm",
    "logged_name",
]
