"""Backbones through fastreid's registry: the paper's MobileNetV2; any norm, checked weights."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.modeling.backbones.mobilenet import MobileNetV2 as StandardMobileNetV2
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from metabin_plugin.compat.patching import patch
from metabin_plugin.errors import WeightsError
from metabin_plugin.modeling.mobilenetv2 import MobileNetV2
from metabin_plugin.norm import convert_norm, count_gates
from metabin_plugin.registries import BACKBONE_NORM_REGISTRY, NORM_REGISTRY, registered
from metabin_plugin.weights.pretrained import (
    load_imagenet_weights,
    local_file,
    read_pretrained,
    weights_fault,
)

logger = logging.getLogger(__name__)

Builder = Callable[[CfgNode], nn.Module]

_FASTREID = "fastreid.modeling.backbones"

# MODEL.BACKBONE.DEPTH of the paper's variant, to its channel multiplier.
PAPER_WIDTHS = {"1.4x": 1.4, "1.0x-paper": 1.0}
# The standard network at 1.4 (channels rounded to multiples of 8), which fastreid does not offer.
ROUNDED_DEPTH = "1.4x-rounded"


@patch(
    f"{_FASTREID}.mobilenet:build_mobilenetv2_backbone",
    fault="It has no depth 1.4, none of the paper's variant, no ``LAST_STRIDE``, and loads what it "
    "finds in a file of weights.",
    unless="``DEPTH`` is one of fastreid's, and ``PRETRAIN`` is off.",
)
def build_any_mobilenetv2(original: Builder, cfg: CfgNode) -> nn.Module:
    """Offer three more values of ``MODEL.BACKBONE.DEPTH``, and check the weights at all of them.

    ``1.4x`` and ``1.0x-paper`` are the paper's variant and honour ``LAST_STRIDE``;
    ``1.4x-rounded`` continues fastreid's own depths.
    """
    backbone = cfg.MODEL.BACKBONE
    network: nn.Module
    if backbone.DEPTH in PAPER_WIDTHS:
        network = MobileNetV2(PAPER_WIDTHS[backbone.DEPTH], backbone.LAST_STRIDE)
    elif backbone.DEPTH == ROUNDED_DEPTH:
        network = StandardMobileNetV2(backbone.NORM, 1.4)
    else:
        network = original(_with(cfg, PRETRAIN=False))
    if backbone.PRETRAIN:
        load_imagenet_weights(network, backbone.PRETRAIN_PATH, cfg.METABIN.PARTIAL_WEIGHTS)
    return network


@patch(
    f"{_FASTREID}.mobilenetv3:build_mobilenetv3_backbone",
    f"{_FASTREID}.shufflenet:build_shufflenetv2_backbone",
    f"{_FASTREID}.osnet:build_osnet_backbone",
    f"{_FASTREID}.resnet:build_resnet_backbone",
    f"{_FASTREID}.resnext:build_resnext_backbone",
    f"{_FASTREID}.resnest:build_resnest_backbone",
    f"{_FASTREID}.regnet.regnet:build_regnet_backbone",
    f"{_FASTREID}.regnet.effnet:build_effnet_backbone",
    f"{_FASTREID}.repvgg:build_repvgg_backbone",
    fault="It loads what it finds in a file of weights and logs the rest, if anything.",
    unless="``PRETRAIN`` is off, or ``PRETRAIN_PATH`` is empty: it then downloads the weights as "
    "before.",
)
def build_with_all_weights(original: Builder, cfg: CfgNode) -> nn.Module:
    """Load all of the file, or refuse it."""
    backbone = cfg.MODEL.BACKBONE
    if not backbone.PRETRAIN or not backbone.PRETRAIN_PATH:
        return original(cfg)
    network = original(_with(cfg, PRETRAIN=False))
    load_imagenet_weights(network, backbone.PRETRAIN_PATH, cfg.METABIN.PARTIAL_WEIGHTS)
    return network


@patch(
    f"{_FASTREID}.build:build_backbone",
    fault="The norm layers are looked up by hard-coded names.",
    unless="``MODEL.BACKBONE.NORM`` is one of fastreid's.",
)
def build_with_registered_norm(original: Builder, cfg: CfgNode) -> nn.Module:
    """Let ``MODEL.BACKBONE.NORM`` name an entry of one of the two registries of norms.

    The backbone is built with batch normalization and gets its pretrained weights; then its norm
    layers are replaced, so that ImageNet weights are those of batch normalization.
    """
    name = cfg.MODEL.BACKBONE.NORM
    if name in registered(BACKBONE_NORM_REGISTRY):
        network = BACKBONE_NORM_REGISTRY.get(name)(original(_with(cfg, NORM="BN")))
    elif name in registered(NORM_REGISTRY):
        network = convert_norm(original(_with(cfg, NORM="BN")), NORM_REGISTRY.get(name))
    else:
        return original(cfg)
    logger.info("MODEL.BACKBONE.NORM %s: %s", name, _norms(network))
    return network


@patch(
    f"{_FASTREID}.build:build_backbone",
    fault="Weights that no backbone can load, or a download that fails, end in a traceback; "
    "``torch.load`` reads them without a check.",
    unless="``PRETRAIN`` is off.",
)
def build_with_checked_file(original: Builder, cfg: CfgNode) -> nn.Module:
    """Read ``MODEL.BACKBONE.PRETRAIN_PATH``, downloaded if it is a name, and refuse what is wrong.

    A backbone that loads it with ``torch.load`` gets what was read. What a backbone of the user's
    then finds wrong with the content ends in one sentence as well. So does a download of fastreid's
    own that fails, or that there is none of, where the path is empty.
    """
    backbone = cfg.MODEL.BACKBONE
    if not backbone.PRETRAIN:
        return original(cfg)
    read: dict[str, Any] = {}
    if backbone.PRETRAIN_PATH:
        file = local_file(backbone.PRETRAIN_PATH)
        read[file] = read_pretrained(file)
        cfg = _with(cfg, PRETRAIN_PATH=file)
    try:
        with _already_read(read):
            return original(cfg)
    except Exception as error:
        fault = weights_fault(error, backbone)
        if fault is None:
            raise
        raise WeightsError(
            f"MODEL.BACKBONE.PRETRAIN_PATH {backbone.PRETRAIN_PATH!r} gives {backbone.NAME} no "
            f"weights: {fault}; give a file of ImageNet weights for this backbone, or set "
            "MODEL.BACKBONE.PRETRAIN False"
        ) from error


@contextmanager
def _already_read(contents: Mapping[str, Any]) -> Iterator[None]:
    """A block in which ``torch.load`` gives what has been read and checked, and not the file.

    PyTorch checks less, and could find something else in a file that is made to be read twice.

    Args:
        contents: by path.
    """
    original = torch.load

    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        known = isinstance(file, str) and file in contents
        return contents[file] if known else original(file, *args, **kwargs)

    torch.load = load  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = original


def _with(cfg: CfgNode, **backbone: Any) -> CfgNode:
    """A copy of a config with other values in ``MODEL.BACKBONE``."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.update(backbone)
    return cfg


def _norms(network: nn.Module) -> str:
    """What normalizes a network, in words."""
    counts = Counter(
        type(layer).__name__ for layer in network.modules() if isinstance(layer, _NormBase)
    )
    layers = [f"{count} {kind} layers" for kind, count in counts.items()]
    gates = count_gates(network)[1]
    return ", ".join([*layers, *([f"{gates} gates"] if gates else [])])


@patch(
    "fastreid.layers.batch_norm:get_norm",
    fault="The norm layers are looked up by hard-coded names. Some meta-architectures (MGN) build "
    "blocks of their own with it, besides the backbone's.",
    unless="the norm is one of fastreid's.",
)
def get_registered_norm(
    original: Callable[..., Any], norm: Any, out_channels: int, **kwargs: Any
) -> Any:
    """Make the layers of ``NORM_REGISTRY`` too, frozen parts included.

    A norm that only a whole backbone can have leaves those blocks with batch normalization.
    """
    if norm in registered(BACKBONE_NORM_REGISTRY):
        return original("BN", out_channels, **kwargs)
    if norm in registered(NORM_REGISTRY):
        layer = original("BN", out_channels, **kwargs)
        return convert_norm(layer, NORM_REGISTRY.get(norm))
    return original(norm, out_channels, **kwargs)
