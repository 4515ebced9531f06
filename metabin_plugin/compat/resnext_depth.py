"""ResNeXt-152 has its blocks in fastreid, but no entry in the table of non-local layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metabin_plugin.compat.extensions import extend_builder

_DEPTH = "152x"
_BLOCKS = (3, 8, 36, 3)
_NON_LOCAL = (0, 0, 0, 0)


def _with_its_depth(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def build_resnext_backbone(cfg: Any) -> Any:
        from fastreid.modeling.backbones.resnext import Bottleneck, ResNeXt

        backbone = cfg.MODEL.BACKBONE
        # Nobody has published weights that the rest of the builder could load.
        if backbone.DEPTH != _DEPTH or backbone.PRETRAIN:
            return original(cfg)
        return ResNeXt(
            backbone.LAST_STRIDE,
            backbone.NORM,
            backbone.WITH_IBN,
            backbone.WITH_NL,
            Bottleneck,
            _BLOCKS,
            _NON_LOCAL,
        )

    return build_resnext_backbone


def repair_resnext_depth() -> None:
    """``MODEL.BACKBONE.DEPTH 152x``, which fastreid's builder of ResNeXt lists, ends in KeyError.

    It has no non-local layers, whatever ``WITH_NL`` is.
    """
    extend_builder("build_resnext_backbone", _with_its_depth)
