"""Whether the weights of a file are those of a backbone, and the first thing that tells."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from fastreid.modeling.backbones.mobilenet import MobileNetV2 as StandardMobileNetV2
from fastreid.modeling.backbones.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from metabin_plugin.modeling.mobilenetv2 import MobileNetV2
from metabin_plugin.modeling.weight_names import (
    FASTREID,
    FIRST_BLOCK,
    LAST,
    features_only,
    renamed,
    standard_names,
    with_expansion,
)

Shapes = Mapping[str, tuple[int, ...]]

# That only the paper's MobileNetV2 has.
_EXPANSION = (f"{FIRST_BLOCK}0.", f"{FIRST_BLOCK}1.")
# A counter without use at fixed momentum, which files older than PyTorch 0.4.1 do not have.
_COUNTER = "num_batches_tracked"
# fastreid's non-local blocks, which no network trained on ImageNet has.
_NON_LOCAL = "NL_"
# The last convolution of fastreid's MobileNetV3, in whose place others have a linear layer.
_LAST_OF_MOBILENETV3 = "conv."


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
    extra = next((name for name in file if name not in network), None)
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
