"""Fitting the weights of other toolboxes to a backbone, by names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from fastreid.modeling.backbones.mobilenet import MobileNetV2 as StandardMobileNetV2
from fastreid.modeling.backbones.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from metabin_plugin.modeling.mobilenetv2 import STAGES, MobileNetV2

# Modules of a block: convolution and norm of expansion, depthwise and linear convolution. In a
# first block without expansion the last four have the first four places.
PLACES = ("0", "1", "3", "4", "6", "7")
FIRST_BLOCK = "features.1.conv."
# The last convolution and its norm.
LAST = ("features.18.0", "features.18.1")
# What comes after the features, which person re-identification has no use for.
CLASSIFIERS = ("classifier.", "fc.", "head.fc.", "linear.")


_CONV_BLOCKS = ("conv1.conv", "conv1.bn", "dwconv2.conv", "dwconv2.bn")
Shapes = Mapping[str, tuple[int, ...]]
# That only the paper's MobileNetV2 has.
_EXPANSION = (f"{FIRST_BLOCK}0.", f"{FIRST_BLOCK}1.")
# A counter without use at fixed momentum, which files older than PyTorch 0.4.1 do not have, nor
# fastreid's FrozenBN.
_COUNTER = "num_batches_tracked"
# fastreid's non-local blocks, which no network trained on ImageNet has.
_NON_LOCAL = "NL_"
# The last convolution of fastreid's MobileNetV3, in whose place others have a linear layer.
_LAST_OF_MOBILENETV3 = "conv."


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


def names_for(network: nn.Module, weights: Mapping[str, object]) -> dict[str, str]:
    """Translate the names in a file into a backbone's.

    Args:
        network: either MobileNetV2, or a backbone whose files have its own names, all behind the
            same prefix perhaps (``module.``, ``encoder.``).
        weights: the file's state dict.

    Returns:
        Name in the network to name in the file, without the classifier's.
    """
    if isinstance(network, MobileNetV2):
        return with_expansion(standard_names(weights))
    if isinstance(network, StandardMobileNetV2):
        last = dict(zip(LAST, FASTREID.last, strict=True))
        return {renamed(own, last): there for own, there in standard_names(weights).items()}
    prefix = _prefix(network, weights)
    there = [name.removeprefix(prefix) for name in weights if name.startswith(prefix)]
    return {name: prefix + name for name in features_only(there)}


def state_for(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's state dict from a file's.

    The paper's MobileNetV2 has an expansion in its first block that the standard one has not. It
    is set to the identity, which is exact in evaluation mode: its input is in [0, 6] already, so
    its ReLU6 changes nothing either.

    Args:
        network: either MobileNetV2, or a backbone whose files have its own names.
        weights: the file's state dict.
    """
    state = {own: weights[there] for own, there in names_for(network, weights).items()}
    if needs_expansion(network, state):
        channels = len(network.state_dict()[f"{FIRST_BLOCK}0.weight"])
        state.update(_identity_expansion(channels))
    return state


def needs_expansion(network: nn.Module, state: Mapping[str, object]) -> bool:
    """Whether the first block's expansion is in a network but not in weights with its names."""
    return isinstance(network, MobileNetV2) and not any(n.startswith(_EXPANSION) for n in state)


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name to shape."""
    return {name: tuple(value.shape) for name, value in state.items()}


def unpublished(network: nn.Module) -> tuple[str, ...]:
    """What the names of those layers begin with that files of ImageNet weights need not have."""
    return (_NON_LOCAL, *([_LAST_OF_MOBILENETV3] if isinstance(network, MobileNetV3) else []))


def first_difference(
    network: Shapes,
    file: Shapes,
    names: Mapping[str, str] | None = None,
    optional: tuple[str, ...] = (_NON_LOCAL,),
) -> str | None:
    """The first name, in the network's order, at which a file differs from it.

    Args:
        network: shape by name.
        file: shape by name, as in the network.
        names: name in the network to name in the file, where they differ.
        optional: beginnings of names that may be absent from the file.

    Returns:
        A clause about the file, as "it has no ..."; None if there is no difference.
    """
    for name, shape in network.items():
        if name not in file:
            if not name.startswith(optional) and not name.endswith(_COUNTER):
                return f"it has no {name} {shape}"
        elif file[name] != shape:
            there = (names or {}).get(name, name)
            label = name if there == name else f"{name} ({there} there)"
            return f"{label} is {file[name]} there, {shape} here"
    foreign = (name for name in file if name not in network and not name.endswith(_COUNTER))
    extra = next(foreign, None)
    return None if extra is None else f"it has {extra} {file[extra]}, which the network has not"


def _prefix(network: nn.Module, weights: Mapping[str, object]) -> str:
    """What a file has before a network's own names; "" where it has none of them."""
    own = list(network.state_dict())
    ends = [name for name in weights if f".{name}".endswith(f".{own[0]}")]
    candidates = [name.removesuffix(own[0]) for name in ends] or [""]
    return max(candidates, key=lambda prefix: sum(prefix + name in weights for name in own))


def _identity_expansion(channels: int) -> dict[str, Tensor]:
    # With the eps that evaluation adds, the variance is 1; in double precision also for double
    # networks.
    variance = torch.full((channels,), 1.0 - nn.BatchNorm2d(1).eps, dtype=torch.float64)
    expansion = {
        "0.weight": torch.eye(channels)[:, :, None, None],
        "1.weight": torch.ones(channels),
        "1.bias": torch.zeros(channels),
        "1.running_mean": torch.zeros(channels),
        "1.running_var": variance,
        "1.num_batches_tracked": torch.tensor(0),
    }
    return {FIRST_BLOCK + name: value for name, value in expansion.items()}
