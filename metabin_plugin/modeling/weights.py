"""ImageNet weights: what every backbone's must be, and loading them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from metabin_plugin.errors import WeightsError
from metabin_plugin.modeling.fitting_backbones import fitting_backbones
from metabin_plugin.modeling.weight_fit import (
    first_difference,
    names_for,
    needs_expansion,
    shapes,
    state_for,
    unpublished,
)
from metabin_plugin.weight_files import read_weight_file

logger = logging.getLogger(__name__)

_KEY = "MODEL.BACKBONE.PRETRAIN_PATH"
# Where fastreid's backbones look for the state dict in a file that holds more.
STATE_DICT_NAMES = ("model", "state_dict", "model_state")


def load_imagenet_weights(network: nn.Module, path: str, partial: bool = False) -> None:
    """Load a file of ImageNet weights into a backbone, all of it or nothing.

    For MobileNetV2 the names of fastreid, torchvision, timm and torchreid are recognised; the
    others have their own names, behind a prefix perhaps. A classifier is ignored. The first block's
    expansion that only the paper's MobileNetV2 has may be absent: it is set to the identity. Of a
    checkpoint of a whole fastreid network the backbone is taken.

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
    return next(filter(None, candidates), {})


def _of_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "backbone."
    inside = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
    return inside or state


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _remedy(weights: Mapping[str, Tensor]) -> str:
    fitting = fitting_backbones(weights)
    if not fitting:
        return "give weights of this backbone, or set MODEL.BACKBONE.PRETRAIN False"
    return f"it fits MODEL.BACKBONE {' or '.join(map(str, fitting))}"
