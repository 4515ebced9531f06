"""What is broken in fastreid's backbones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from yacs.config import CfgNode

from metabin_plugin.compat.extensions import extend_builder


class BuilderConfig:
    """What one of fastreid's builders reads: one file's values, and defaults for the others.

    Args:
        defaults: the values without a file; they stay as they are.
        root: folder that the files' paths start from.
    """

    def __init__(self, defaults: CfgNode, root: Path) -> None:
        self._defaults, self._root = defaults, root
        self._values = defaults

    def __getattr__(self, node: str) -> Any:
        return getattr(self._values, node)

    def merge_from_file(self, path: str) -> None:
        """Take the values of a YAML file in place of those of the file before.

        Args:
            path: of the file, within the root.
        """
        values = self._defaults.clone()
        values.merge_from_file(str(self._root / path))
        self._values = values


def _own_config(builder: ModuleType, name: str) -> None:
    import fastreid

    config = getattr(builder, name)
    if not isinstance(config, BuilderConfig):
        root = Path(fastreid.__file__).parents[1]
        setattr(builder, name, BuilderConfig(config, root))


def repair_regnet_config() -> None:
    """A RegNet or EfficientNet can be built from a checkout of fastreid alone, and only once.

    The paths of its YAML files start at the current folder. And its values stay in a config that
    they all share: a RegNetX that is built after a RegNetY gets its squeeze and excitation.
    """
    from fastreid.modeling.backbones.regnet import effnet, regnet

    _own_config(regnet, "regnet_cfg")
    _own_config(effnet, "effnet_cfg")


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


_FOLDER = "https://dl.fbaipublicfiles.com/pycls/dds_baselines/"
_REGNETS = {"800x": "160906036/RegNetX-800MF_dds_8gpu.pyth"}
_EFFICIENTNETS = {
    "b3": "161305060/EN-B3_dds_8gpu.pyth",
    "b5": "161305138/EN-B5_dds_8gpu.pyth",
}


def repair_weight_urls() -> None:
    """RegNetX-800MF downloads RegNetX-200MF, and EfficientNet-B3 and -B5 what is not there.

    The right ones are in pycls, which the weights come from.
    """
    from fastreid.modeling.backbones.regnet import effnet, regnet

    for urls, right in (
        (regnet.model_urls, _REGNETS),
        (effnet.model_urls, _EFFICIENTNETS),
    ):
        urls.update({depth: _FOLDER + path for depth, path in right.items()})
