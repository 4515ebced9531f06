"""Weights of a backbone from a file: where they come from, whether they fit, what else would."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from fastreid.config import CfgNode
from torch import Tensor, hub, nn
from torchvision.models import get_weight

from metabin_plugin.compat.patching import patch
from metabin_plugin.errors import WeightsError
from metabin_plugin.modeling.backbones import (
    BACKBONES,
    MOBILENETV2,
    RESNET,
    KnownBackbone,
    is_known,
)
from metabin_plugin.weights.checkpointer import without_wrapper
from metabin_plugin.weights.files import read_weight_file
from metabin_plugin.weights.fit import (
    first_difference,
    names_for,
    needs_expansion,
    shapes,
    state_for,
    unpublished,
)

logger = logging.getLogger(__name__)

Builder = Callable[[CfgNode], nn.Module]

_FASTREID = "fastreid.modeling.backbones"

PREFIX = "torchvision:"
# A file name's beginning of its SHA-256, as torchvision's files have it.
_HASH = re.compile(r"-([0-9a-f]{8,})\.pth$")


# Others have names of their own. Non-local layers are in no file, so they tell nothing.
CANDIDATES = tuple(b for b in BACKBONES if b.name in (MOBILENETV2, RESNET) and not b.with_nl)
_KEY = "MODEL.BACKBONE.PRETRAIN_PATH"
# Where fastreid's backbones look for the state dict in a file that holds more.
STATE_DICT_NAMES = ("model", "state_dict", "model_state")


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
    return _with_all_weights(original, cfg)


def _with_all_weights(build: Builder, cfg: CfgNode) -> nn.Module:
    network = build(_with(cfg, PRETRAIN=False))
    load_imagenet_weights(network, cfg.MODEL.BACKBONE.PRETRAIN_PATH, cfg.METABIN.PARTIAL_WEIGHTS)
    return network


@patch(
    f"{_FASTREID}.mobilenet:build_mobilenetv2_backbone",
    fault="It loads what it finds in a file of weights, and knows no address to download them.",
    unless="``PRETRAIN`` is off.",
)
def build_mobilenetv2_with_all_weights(original: Builder, cfg: CfgNode) -> nn.Module:
    """Load all of the file, or refuse it, or its absence."""
    return _with_all_weights(original, cfg) if cfg.MODEL.BACKBONE.PRETRAIN else original(cfg)


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


def local_file(path: str) -> str:
    """The file of ``MODEL.BACKBONE.PRETRAIN_PATH``, downloaded if it is a name and not there yet.

    Args:
        path: a file, or ``torchvision:`` and a member of one of torchvision's enumerations of
            weights, as ``torchvision:ResNet50_Weights.IMAGENET1K_V1``.

    Returns:
        ``path`` itself, or the file in PyTorch's folder of downloads.

    Raises:
        WeightsError: torchvision does not know the name, or the download fails.
    """
    if not path.startswith(PREFIX):
        return path
    try:
        url = get_weight(path.removeprefix(PREFIX)).url
    except (ValueError, AttributeError, KeyError) as error:
        raise WeightsError(
            f"MODEL.BACKBONE.PRETRAIN_PATH is {path!r}, which torchvision does not have; give a "
            f"name like {PREFIX}MobileNet_V2_Weights.IMAGENET1K_V1, or a file"
        ) from error
    name = url.rpartition("/")[2]
    file = os.path.join(hub.get_dir(), "checkpoints", name)
    if not os.path.isfile(file):
        _download(url, file)
    return file


def _download(url: str, file: str) -> None:
    checksum = _HASH.search(file)
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        hub.download_url_to_file(url, file, checksum[1] if checksum else None, progress=False)
    # A failed connection, or another checksum.
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"MODEL.BACKBONE.PRETRAIN_PATH: {url} cannot be downloaded ({error}); put the file at "
            f"{file}, give another, or set MODEL.BACKBONE.PRETRAIN False to do without"
        ) from error


def fitting_backbones(weights: Mapping[str, Tensor]) -> list[KnownBackbone]:
    """Those of ``CANDIDATES`` that a file's state dict fits.

    Args:
        weights: the state dict, names as in the file.
    """
    return [backbone for backbone in CANDIDATES if _fits(backbone, weights)]


def _fits(backbone: KnownBackbone, weights: Mapping[str, Tensor]) -> bool:
    network = _network(backbone)
    return (
        first_difference(shapes(network.state_dict()), shapes(state_for(network, weights))) is None
    )


@functools.cache
def _network(backbone: KnownBackbone) -> nn.Module:
    return backbone.build()


def load_imagenet_weights(network: nn.Module, path: str, partial: bool = False) -> None:
    """Load a file of ImageNet weights into a backbone, all of it or nothing.

    For MobileNetV2 the names of fastreid, torchvision, timm and torchreid are recognised; the
    others have their own names, behind a prefix perhaps. The prefix of a data-parallel wrapper and
    a classifier are ignored. The first block's expansion that only the paper's MobileNetV2 has may
    be absent: it is set to the identity. Of a checkpoint of a whole fastreid network the backbone
    is taken.

    Args:
        network: the backbone, changed in place; it must still have batch normalization.
        path: a file of ``torch.save`` with a state dict.
        partial: whether to load what fits of weights that do not fit, with a warning.

    Raises:
        WeightsError: the file is missing, unreadable, or differs from the network; the message
            names the first difference and the known backbones that it fits.
    """
    weights = _of_backbone(_state_dict(read_pretrained(path)))
    state = state_for(network, weights)
    own = network.state_dict()
    names = names_for(network, weights)
    difference = first_difference(shapes(own), shapes(state), names, unpublished(network))
    if difference is not None:
        state = {n: value for n, value in state.items() if n in own and value.shape == own[n].shape}
        if not partial or not state:
            raise WeightsError(
                f"{_KEY}: {path} does not fit this {type(network).__name__}: {difference}; "
                f"{_remedy(weights)}"
            )
        logger.warning("%s does not fit: %s; loading what fits", path, difference)
    if needs_expansion(network, names):
        logger.info("%s: the first block's expansion, absent there, starts as the identity", path)
    network.load_state_dict(state, strict=False)
    logger.info("Loaded ImageNet weights from %s", path)


def read_pretrained(path: str) -> Mapping[str, Any]:
    """Read the file of ``MODEL.BACKBONE.PRETRAIN_PATH``, without running code that it may hold.

    Args:
        path: the file.

    Returns:
        A state dict, alone or under one of the names that fastreid's backbones look for, with what
        else is in the file.

    Raises:
        WeightsError: the file is missing, empty, damaged, holds other objects or no state dict.
    """
    if not os.path.isfile(path):
        raise WeightsError(
            f"{_KEY}: there is no file {path!r}; give a file of ImageNet weights or set "
            "MODEL.BACKBONE.PRETRAIN False"
        )
    try:
        content = read_weight_file(path)
    except WeightsError as error:
        raise WeightsError(f"{_KEY}: {error}") from error
    if not isinstance(content, Mapping) or not _state_dict(content):
        raise WeightsError(
            f"{_KEY}: {path} does not hold a state dict (parameter name to tensor); save "
            "network.state_dict() by torch.save"
        )
    return content


def _state_dict(content: Mapping[str, Any]) -> dict[str, Tensor]:
    nested = [content[name] for name in STATE_DICT_NAMES if isinstance(content.get(name), Mapping)]
    candidates = (_tensors(candidate) for candidate in (*nested, content))
    return without_wrapper(next(filter(None, candidates), {}))


def _of_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "backbone."
    inside = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
    return inside or state


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    named = {name: value for name, value in state.items() if isinstance(name, str)}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def _remedy(weights: Mapping[str, Tensor]) -> str:
    fitting = fitting_backbones(weights)
    if not fitting:
        return "give weights of this backbone, or set MODEL.BACKBONE.PRETRAIN False"
    return f"it fits MODEL.BACKBONE {' or '.join(map(str, fitting))}"


def weights_fault(error: Exception, backbone: CfgNode) -> str | None:
    """What is wrong with the weights, in words.

    Args:
        error: of a builder that was asked for pretrained weights.
        backbone: ``cfg.MODEL.BACKBONE``.

    Returns:
        A clause; None where the error is about something else.
    """
    # gdown's errors have only Exception in common.
    if type(error).__module__.startswith("gdown."):
        return _line(error)
    if isinstance(error, OSError):
        return _line(error)
    if isinstance(error, (pickle.UnpicklingError, EOFError)):
        return f"the file is damaged ({_line(error)})"
    if isinstance(error, KeyError):
        return _missing(error, backbone)
    if isinstance(error, RuntimeError):
        return _misfit(error)
    return None


def _missing(error: KeyError, backbone: CfgNode) -> str | None:
    if error.args[0] in STATE_DICT_NAMES:
        return f"the file has no {error.args[0]!r}"
    # fastreid's tables of downloads have keys that are made of depth and flags.
    if not backbone.PRETRAIN_PATH and is_known(backbone.NAME, backbone.DEPTH):
        return f"fastreid has none of {error.args[0]} to download"
    return None


def _misfit(error: RuntimeError) -> str | None:
    # PyTorch's list of misfits: a heading, then a line for each.
    heading, *misfits = str(error).splitlines() or [""]
    if misfits and "loading state_dict" in heading:
        return misfits[0].strip()
    # Of torch.hub, of torch.load.
    named = ("invalid hash value", "PytorchStreamReader")
    return heading if heading.startswith(named) else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
