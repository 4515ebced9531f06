"""Building a network, with a reason when its parts do not fit together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fastreid.config import CfgNode
from fastreid.modeling.meta_arch.baseline import Baseline
from torch import Tensor, nn

from metabin_plugin.engine.network_options import apply_network_options
from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling.known_backbones import FAMILIES


def build_network(build: Callable[[CfgNode], nn.Module], cfg: CfgNode) -> nn.Module:
    """Build the network of a config, try its backbone on one black image and set its options.

    Args:
        build: fastreid's ``build_model``.
        cfg: the config.

    Returns:
        The network, as built: parameters, buffers and random generators are not touched.

    Raises:
        ConfigError: the backbone does not know its depth, cannot take images of this size, or gives
            another number of features than the head expects; or an option does not fit the
            network.
    """
    backbone = cfg.MODEL.BACKBONE
    try:
        network = build(cfg)
    except (KeyError, ValueError, NotImplementedError) as error:
        family = FAMILIES.get(backbone.NAME)
        is_its_depth = (
            error.args == (backbone.DEPTH,)
            if family is None
            else backbone.DEPTH not in family.depths
        )
        if not is_its_depth:
            raise
        choices = "that it has" if family is None else f"of {', '.join(family.depths)}"
        raise ConfigError(
            f"MODEL.BACKBONE.DEPTH is {backbone.DEPTH!r}, which {backbone.NAME} does not have; "
            f"give one {choices}"
        ) from error
    # Other architectures cut the backbone up.
    if isinstance(network, Baseline):
        _check_features(network, cfg)
    # Last, for the one image would be a compiled backbone's first batch size.
    apply_network_options(network, cfg)
    return network


def _check_features(network: nn.Module, cfg: CfgNode) -> None:
    backbone = cfg.MODEL.BACKBONE
    key = "INPUT.CROP.SIZE" if cfg.INPUT.CROP.ENABLED else "INPUT.SIZE_TRAIN"
    size = list(cfg.INPUT.CROP.SIZE if cfg.INPUT.CROP.ENABLED else cfg.INPUT.SIZE_TRAIN)
    size = size * 2 if len(size) == 1 else size
    try:
        features = _try(
            network.get_submodule("backbone"), torch.zeros((1, 3, *size)).to(cfg.MODEL.DEVICE)
        )
    except (AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{key} is {size}, on which {backbone.NAME} fails ({reason}); choose a size "
            "that it takes"
        ) from error
    if isinstance(features, Tensor) and features.shape[1] != backbone.FEAT_DIM:
        raise ConfigError(
            f"MODEL.BACKBONE.FEAT_DIM is {backbone.FEAT_DIM}, but {backbone.NAME} with DEPTH "
            f"{backbone.DEPTH} gives {features.shape[1]} features; set it to that"
        )


@torch.no_grad()
def _try(backbone: nn.Module, images: Tensor) -> object:
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        return backbone(images)
    finally:
        for module, training in modes.items():
            module.training = training
