"""The MetaBIN meta-architecture and the backbones that fastreid lacks."""

from metabin_plugin.modeling.base_losses import (
    BASE_LOSSES,
    BaseLoss,
    BaseRows,
    IdentityMemory,
    MemoryStates,
)
from metabin_plugin.modeling.dual_norm import insert_dual_norm
from metabin_plugin.modeling.meta_arch import (
    META_LOSSES,
    BaselineWithLosses,
    MetaBIN,
    MetaRows,
    logged_name,
)
from metabin_plugin.modeling.mobilenetv2 import MobileNetV2

__all__ = [
    "BASE_LOSSES",
    "META_LOSSES",
    "BaseLoss",
    "BaseRows",
    "BaselineWithLosses",
    "IdentityMemory",
    "MemoryStates",
    "MetaBIN",
    "MetaRows",
    "MobileNetV2",
    "insert_dual_norm",
    "logged_name",
]
