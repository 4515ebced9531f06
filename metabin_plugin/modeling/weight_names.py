"""The names under which others save MobileNetV2, each beside the name of the plugin's network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from metabin_plugin.modeling.mobilenetv2 import STAGES

# Modules of a block: convolution and norm of expansion, depthwise and linear convolution. In a
# first block without expansion the last four have the first four places.
PLACES = ("0", "1", "3", "4", "6", "7")
FIRST_BLOCK = "features.1.conv."
# The last convolution and its norm.
LAST = ("features.18.0", "features.18.1")
# What comes after the features, which person re-identification has no use for.
CLASSIFIERS = ("classifier.", "fc.", "head.fc.", "linear.")


@dataclass(frozen=True)
class Naming:
    """How someone's MobileNetV2 calls its modules.

    Attributes:
        stem: the first convolution and its norm.
        block: a module of a block, with fields ``index`` (blocks counted from 1), ``stage`` and
            ``block`` (counted from 0), ``group`` (the stage, counted from 2) and ``layer``.
        layers: values of ``layer``, in the order of ``PLACES``.
        first_layers: those of the first block; four of them if it has no expansion.
        last: the last convolution and its norm.
    """

    stem: tuple[str, str]
    block: str
    layers: tuple[str, ...]
    first_layers: tuple[str, ...]
    last: tuple[str, str]

    def modules(self) -> dict[str, str]:
        """Name of every convolution and norm, to its name in the plugin's network."""
        table = {self.stem[0]: "features.0.0", self.stem[1]: "features.0.1"}
        for index, stage, block in _blocks():
            layers = self.first_layers if index == 1 else self.layers
            for layer, place in zip(layers, PLACES, strict=False):
                theirs = self.block.format(
                    index=index, stage=stage, block=block, group=stage + 2, layer=layer
                )
                table[theirs] = f"features.{index}.conv.{place}"
        return {**table, **dict(zip(self.last, LAST, strict=True))}


_CONV_BLOCKS = ("conv1.conv", "conv1.bn", "dwconv2.conv", "dwconv2.bn")

FASTREID = Naming(
    stem=("features.0.0", "features.0.1"),
    block="features.{index}.conv.{layer}",
    layers=PLACES,
    first_layers=PLACES,
    last=("conv.0", "conv.1"),
)
TORCHVISION = Naming(
    stem=("features.0.0", "features.0.1"),
    block="features.{index}.conv.{layer}",
    layers=("0.0", "0.1", "1.0", "1.1", "2", "3"),
    first_layers=("0.0", "0.1", "1", "2"),
    last=LAST,
)
TIMM = Naming(
    stem=("conv_stem", "bn1"),
    block="blocks.{stage}.{block}.{layer}",
    layers=("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"),
    first_layers=("conv_dw", "bn1", "conv_pw", "bn2"),
    last=("conv_head", "bn2"),
)
TORCHREID = Naming(
    stem=("conv1.conv", "conv1.bn"),
    block="conv{group}.{block}.{layer}",
    layers=(*_CONV_BLOCKS, "conv3.0", "conv3.1"),
    first_layers=(*_CONV_BLOCKS, "conv3.0", "conv3.1"),
    last=("conv9.conv", "conv9.bn"),
)
AUTHORS = Naming(
    stem=("layer1.conv", "layer1.bn"),
    block="layer{group}.{block}.{layer}",
    layers=(*_CONV_BLOCKS, "conv3", "bn"),
    first_layers=(*_CONV_BLOCKS, "conv3", "bn"),
    last=("layer9.conv", "layer9.bn"),
)
# Of files of ImageNet weights.
IMAGENET_NAMINGS = (FASTREID, TORCHVISION, TIMM, TORCHREID)


def features_only(names: Iterable[str]) -> list[str]:
    """Names of a state dict without those of its classifier."""
    return [name for name in names if not name.startswith(CLASSIFIERS)]


def standard_names(names: Iterable[str]) -> dict[str, str]:
    """Recognise the naming of a MobileNetV2 and translate it.

    Args:
        names: of the parameters and buffers in a file.

    Returns:
        Name as in the plugin's network, ``features.N...``, to the name in the file. A first block
        without expansion has places 0 to 4. The classifier is left out; names that no known naming
        has stay what they are.
    """
    kept = features_only(names)
    modules = {name.rpartition(".")[0] for name in kept}
    tables = [naming.modules() for naming in IMAGENET_NAMINGS]
    table = max(tables, key=lambda candidate: len(modules & candidate.keys()))
    return {renamed(name, table): name for name in kept}


def with_expansion(names: dict[str, str]) -> dict[str, str]:
    """Move the places of a first block without expansion to where the paper's variant has them.

    Args:
        names: standard name to name in the file.

    Returns:
        The same with the first block's places 0 to 4 turned into 3 to 7, unless it has them all.
    """
    if f"{FIRST_BLOCK}6.weight" in names:
        return names
    table = {
        f"{FIRST_BLOCK}{short}": f"{FIRST_BLOCK}{full}"
        for short, full in zip(PLACES[:4], PLACES[2:], strict=True)
    }
    return {renamed(own, table): there for own, there in names.items()}


def renamed(name: str, modules: dict[str, str]) -> str:
    """Name of a parameter or buffer whose module has the name that a table gives it."""
    module, dot, leaf = name.rpartition(".")
    return f"{modules.get(module, module)}{dot}{leaf}"


def _blocks() -> Iterator[tuple[int, int, int]]:
    index = 0
    for stage, (_, _, blocks, _) in enumerate(STAGES):
        for block in range(blocks):
            index += 1
            yield index, stage, block
