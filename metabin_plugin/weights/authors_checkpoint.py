"""Checkpoints of the authors' code under the plugin's names, and back.

The authors' networks have the plugin's parameters and shapes under other names. Their layer of
batch-instance normalization holds a ``bat_n``, an ``ins_n`` and a ``gate``, their MobileNetV2 has
``layer1`` to ``layer9``, and their head a ``classifier_norm`` and a ``classifier_fc``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metabin_plugin.errors import WeightsError
from metabin_plugin.modeling.backbones import MOBILENETV2, RESNET, KnownBackbone
from metabin_plugin.norm import convert_norm
from metabin_plugin.weights.checkpointer import network_state
from metabin_plugin.weights.fit import AUTHORS, first_difference, shapes

# Backbones that both have.
AUTHORS_BACKBONES = (
    *(KnownBackbone(MOBILENETV2, depth) for depth in ("1.4x", "1.0x-paper")),
    *(KnownBackbone(RESNET, depth) for depth in ("18x", "34x", "50x", "101x")),
)
# Normalization of the images: parts of the authors' state dict, of the config here.
PIXEL_BUFFERS = ("pixel_mean", "pixel_std")
# The entry of a converted checkpoint that keeps them.
PIXEL_ENTRY = "authors_pixel_buffers"

_INSTANCE = {"instance_weight": "ins_n.weight", "instance_bias": "ins_n.bias", "gate": "gate"}
_HEAD = {"heads.bottleneck.0": "heads.classifier_norm", "heads": "heads.classifier_fc"}
_DOWNSAMPLE = {".downsample.0": ".downsample.conv", ".downsample.1": ".downsample.bn"}
_MOBILENETV2 = {
    f"backbone.{own}": f"backbone.{theirs}" for theirs, own in AUTHORS.modules().items()
}


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint.

    Attributes:
        checkpoint: what to save.
        backbone: the backbone that it is of.
        tensors: number of parameters and buffers renamed.
        dropped: entries that were left out: optimizers, schedules and counters of the other code.
    """

    checkpoint: dict[str, Any]
    backbone: KnownBackbone
    tensors: int
    dropped: list[str]


def from_authors(checkpoint: Any, path: str) -> Conversion:
    """Rename a checkpoint of the authors' code to the plugin's names.

    Args:
        checkpoint: its content, with the state dict in the entry "model".
        path: its file, for messages.

    Returns:
        A checkpoint for ``MODEL.WEIGHTS``; values, their order and the kind of mapping are kept.

    Raises:
        WeightsError: the state dict is none of the authors' networks; the message names the first
            name or shape in which it differs from the nearest.
    """
    state = network_state(checkpoint, path)
    pixels = {name: state[name] for name in PIXEL_BUFFERS if name in state}
    weights = _without(state, pixels)
    backbone, names = _recognise(weights, path, authors=True)
    converted: dict[str, Any] = {"model": _rename(weights, {v: k for k, v in names.items()})}
    if pixels:
        converted[PIXEL_ENTRY] = pixels
    return Conversion(converted, backbone, len(weights), [n for n in checkpoint if n != "model"])


def to_authors(checkpoint: Any, path: str) -> Conversion:
    """Rename a checkpoint of the plugin to the names of the authors' code.

    Args:
        checkpoint: its content, with the state dict in the entry "model".
        path: its file, for messages.

    Returns:
        A checkpoint for the authors' code. Of one that came from there it is the original, without
        the entries dropped on the way.

    Raises:
        WeightsError: the state dict is of no network that the authors' code has; the message names
            the first name or shape in which it differs from the nearest.
    """
    state = network_state(checkpoint, path)
    backbone, names = _recognise(state, path, authors=False)
    pixels = checkpoint.get(PIXEL_ENTRY, {})
    renamed = _rename(state, names)
    model = _without(renamed, renamed)
    # The authors' network has them itself, so they come before the backbone's.
    model.update(pixels)
    model.update(renamed)
    kept = ("model", PIXEL_ENTRY)
    dropped = [name for name in checkpoint if name not in kept]
    return Conversion({"model": model}, backbone, len(state), dropped)


def authors_names(backbone: KnownBackbone) -> dict[str, str]:
    """The plugin's name of each parameter and buffer, to the authors'.

    Args:
        backbone: one of ``AUTHORS_BACKBONES``.
    """
    return {name: _authors_name(name) for name in _network_shapes(backbone, 0)}


def _recognise(
    state: Mapping[str, Any], path: str, authors: bool
) -> tuple[KnownBackbone, dict[str, str]]:
    """The nearest backbone, which must be the right one, and its names."""
    file = shapes(state)
    classifier = file.get("heads.classifier_fc.weight" if authors else "heads.weight", ())
    classes = classifier[0] if classifier else 0
    candidates = []
    for backbone in AUTHORS_BACKBONES:
        own = _network_shapes(backbone, classes)
        names = {name: _authors_name(name) for name in own}
        expected = {names[name]: shape for name, shape in own.items()} if authors else own
        common = len(expected.items() & file.items())
        candidates.append((common, backbone, names, expected))
    _, backbone, names, expected = max(candidates, key=lambda candidate: candidate[0])
    difference = first_difference(expected, file)
    if difference is not None:
        whose = "the authors' networks" if authors else "this project's MetaBIN networks"
        raise WeightsError(
            f"{path} is of none of {whose} (nearest: {backbone}): {difference}; give another "
            "checkpoint, or convert in the other direction"
        )
    return backbone, names


def _network_shapes(backbone: KnownBackbone, classes: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the MetaBIN network with a backbone, without its values."""
    network = backbone.build()
    with torch.device("meta"):
        convert_norm(network, "BIN")
        # The last norm of each of them is that of the features.
        features = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features
        heads = {
            **{f"bottleneck.0.{n}": v for n, v in nn.BatchNorm2d(features).state_dict().items()},
            "weight": torch.empty(classes, features),
        }
    parts = {"backbone": network.state_dict(), "heads": heads}
    return {f"{p}.{n}": tuple(v.shape) for p, part in parts.items() for n, v in part.items()}


def _authors_name(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    if module in _HEAD:
        return f"{_HEAD[module]}.{leaf}"
    for own, theirs in _DOWNSAMPLE.items():
        module = module.replace(own, theirs)
    module = _MOBILENETV2.get(module, module)
    is_norm = module.rpartition(".")[2].startswith("bn")
    leaf = _INSTANCE.get(leaf, f"bat_n.{leaf}") if is_norm else leaf
    return f"{module}.{leaf}"


def _rename(state: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    renamed = _without(state, state)
    renamed.update((names[name], value) for name, value in state.items())
    return renamed


def _without(state: dict[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    # A copy, as an ordered dictionary and its attributes are part of a saved file.
    kept = copy.copy(state)
    for name in names:
        del kept[name]
    return kept
