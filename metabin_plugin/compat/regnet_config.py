"""RegNet and EfficientNet share one config, and look for its files from the current folder."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from yacs.config import CfgNode


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
