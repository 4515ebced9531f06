"""ImageNet weights of the standard MobileNetV2 for the paper's variant of it."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping

import torch
from torch import Tensor

from metabin_plugin.errors import WeightsError
from metabin_plugin.modeling.mobilenetv2 import MobileNetV2

logger = logging.getLogger(__name__)

# The block with an expansion convolution that the standard network does not have.
FIRST_BLOCK = "features.1.conv."


def load_imagenet_weights(network: MobileNetV2, path: str) -> None:
    """Load a file of standard MobileNetV2 weights into the paper's variant.

    The extra expansion of the first block is set to the identity. That is exact in evaluation
    mode: its input is in [0, 6] already, so its ReLU6 changes nothing either.

    Args:
        network: the network, changed in place; it must still have batch normalization.
        path: a state dict saved by ``torch.save``, with names ``features.N...`` for the layers
            and ``features.18`` or ``conv`` for the last convolution. A classifier in it is ignored.

    Raises:
        WeightsError: the file is missing, unreadable, or differs from the network; the message
            names the first difference.
    """
    weights = _standard_names(_read_state_dict(path))
    first_dw = weights.get(FIRST_BLOCK + "0.weight")
    if first_dw is not None and first_dw.dim() == 4 and first_dw.shape[1:3] == (1, 3):
        weights = _with_identity_expansion(weights, first_dw.shape[0])
        logger.info("%s: the first block's expansion, absent there, starts as the identity", path)
    _check_fit(network.state_dict(), weights, path)
    network.load_state_dict(weights)
    logger.info("Loaded ImageNet weights from %s", path)


def _read_state_dict(path: str) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise WeightsError(
            f"MODEL.BACKBONE.PRETRAIN_PATH: there is no file {path!r}; give a file of ImageNet "
            "weights or set MODEL.BACKBONE.PRETRAIN False"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"MODEL.BACKBONE.PRETRAIN_PATH: {path} is not a file of weights ({reason}); give a "
            "state dict saved by torch.save"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            f"MODEL.BACKBONE.PRETRAIN_PATH: {path} does not hold a state dict (parameter name to "
            "tensor); save network.state_dict() by torch.save"
        )
    return dict(state)


def _standard_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in weights.items():
        if name.startswith("classifier."):
            continue
        renamed["features.18" + name[len("conv") :] if name.startswith("conv.") else name] = value
    return renamed


def _with_identity_expansion(weights: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    shifted = {}
    for name, value in weights.items():
        if name.startswith(FIRST_BLOCK):
            index, _, rest = name[len(FIRST_BLOCK) :].partition(".")
            name = f"{FIRST_BLOCK}{int(index) + 3}.{rest}"
        shifted[name] = value
    norm = torch.nn.BatchNorm2d(channels)
    expansion = {
        "0.weight": torch.eye(channels)[:, :, None, None],
        "1.weight": torch.ones(channels),
        "1.bias": torch.zeros(channels),
        "1.running_mean": torch.zeros(channels),
        # With the eps that evaluation adds, the variance is 1.
        "1.running_var": torch.full((channels,), 1.0 - norm.eps),
        "1.num_batches_tracked": torch.tensor(0),
    }
    shifted.update((FIRST_BLOCK + name, value) for name, value in expansion.items())
    return shifted


def _check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: str) -> None:
    where = f"MODEL.BACKBONE.PRETRAIN_PATH: {path} does not fit this MobileNetV2: "
    remedy = "; give weights of the same width (MODEL.BACKBONE.DEPTH)"
    for name, value in own.items():
        if name not in weights:
            raise WeightsError(f"{where}it has no {name}{remedy}")
        if weights[name].shape != value.shape:
            shapes = f"{tuple(weights[name].shape)} there, {tuple(value.shape)} here"
            raise WeightsError(f"{where}{name} is {shapes}{remedy}")
    extra = next((name for name in weights if name not in own), None)
    if extra is not None:
        raise WeightsError(f"{where}it has {extra}, which the network has not{remedy}")
