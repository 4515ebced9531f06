"""The network of a config and its weights, folded for inference."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from fastreid.config import CfgNode
from torch import Tensor, nn

from metabin_plugin.deploy.folding import Folding, fold_norms, relative_difference
from metabin_plugin.engine import trained_network
from metabin_plugin.errors import ConfigError, ExportError
from metabin_plugin.modeling import merge_folded_blocks

logger = logging.getLogger(__name__)

# Far above rounding in float64, far below what an image can change.
_ROUNDING = 1e-6


def image_size(cfg: CfgNode) -> tuple[int, int]:
    """Height and width of the images that a config's evaluation gives to the network.

    Args:
        cfg: the config.

    Raises:
        ConfigError: it leaves them open.
    """
    key = "INPUT.CROP.SIZE" if cfg.INPUT.CROP.ENABLED else "INPUT.SIZE_TEST"
    size = list(cfg.INPUT.CROP.SIZE if cfg.INPUT.CROP.ENABLED else cfg.INPUT.SIZE_TEST)
    if cfg.INPUT.CROP.ENABLED and len(size) == 1:
        size *= 2
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(
            f"{key} is {size}, but an exported network takes images of one size; set it to "
            "[height, width]"
        )
    return size[0], size[1]


def random_images(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Images of noise (count, 3, height, width), float32 in [0, 255], the same for the same seed.

    Args:
        count: number of images.
        size: height and width.
        seed: of the generator.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3, *size), generator=generator) * 255


def network_to_export(cfg: CfgNode) -> nn.Module:
    """The network of a config with ``MODEL.WEIGHTS``, on the CPU, in evaluation mode.

    Args:
        cfg: the config; it is not changed.

    Raises:
        ConfigError: ``MODEL.WEIGHTS`` is empty, or the config cannot work.
        WeightsError: the file is damaged or does not fit.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    # How the network is run here is no part of it.
    cfg.METABIN.COMPILE = cfg.METABIN.CHANNELS_LAST = False
    return trained_network(cfg, "MODEL.WEIGHTS is empty, but it is what is exported").eval()


@torch.no_grad()
def fold_network(network: nn.Module, size: tuple[int, int], tolerance: float) -> Folding:
    """Fold a whole network and measure what that changes, on four images of noise.

    A block of RepVGG without open channels becomes one convolution.

    Args:
        network: takes a batch of images, gives a batch of features; it becomes float64, in
            evaluation mode.
        size: height and width of the images.
        tolerance: how far below 1 a gate is taken for 1.

    Returns:
        The folded network, float32, with the difference.

    Raises:
        ExportError: with tolerance 0 the folded network computes something else.
    """
    images = random_images(4, size).double()
    expected = network.double().eval()(images)
    folding = _with_merged_blocks(fold_norms(network, tolerance))
    difference = relative_difference(folding.network(images), expected)
    if tolerance == 0 and not difference < _ROUNDING:
        raise ExportError(
            f"folding the normalization of {type(network).__name__} changes its features by "
            f"{difference:.1e} of the largest one; its backbone calls layers in a way that "
            "folding does not see, so export another one"
        )
    folding.network.float()
    return replace(folding, difference=difference)


def _with_merged_blocks(folding: Folding) -> Folding:
    blocks, channels, layers = merge_folded_blocks(folding.network)
    if blocks:
        logger.info("%d RepVGG blocks are one convolution each", blocks)
    # What only a constant map was is in the convolution now.
    return replace(
        folding,
        identities=folding.identities + layers,
        folded_channels=folding.folded_channels + channels,
        affine_channels=folding.affine_channels - channels,
    )
