"""What mixed precision cannot do: with these keys, and on this device."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

import torch
from fastreid.config import CfgNode
from torch import nn

from metabin_plugin.compat.mixed_precision import autocast_dtype
from metabin_plugin.engine.network_options import uncompiled
from metabin_plugin.engine.value_checks import check_choice
from metabin_plugin.errors import ConfigError
from metabin_plugin.half_convolutions import Convolution, convolutions_of, fault_of

logger = logging.getLogger(__name__)


def check_mixed_precision(cfg: CfgNode) -> None:
    """Check ``SOLVER.AMP.DTYPE``; types, and ``MODEL.DEVICE``, are right.

    Args:
        cfg: the config.

    Raises:
        ConfigError: the type is none, or not one for the device.
    """
    amp = cfg.SOLVER.AMP
    check_choice("SOLVER.AMP.DTYPE", amp.DTYPE, ("auto", "float16", "bfloat16"))
    if amp.ENABLED and amp.DTYPE == "float16" and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        raise ConfigError(
            "SOLVER.AMP.DTYPE is float16, which needs a GPU, but MODEL.DEVICE is "
            f"{cfg.MODEL.DEVICE!r}; set SOLVER.AMP.DTYPE bfloat16"
        )


def other_half_type(cfg: CfgNode) -> str | None:
    """The value of ``SOLVER.AMP.DTYPE`` that would make a run with mixed precision another one.

    Args:
        cfg: a checked config.

    Returns:
        "bfloat16" or "float16"; None where the run cannot use the other type.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    if autocast_dtype(device, cfg.SOLVER.AMP.DTYPE) is torch.float16:
        return "bfloat16"
    # MLDGHook has no loss scale.
    can_scale = device.type == "cuda" and "MLDGHook" not in cfg.METABIN.HOOKS
    return "float16" if can_scale else None


def check_convolutions_once(cfg: CfgNode, network: nn.Module) -> None:
    """Let the first batch of a training with mixed precision check the device's convolutions.

    The batch's forward pass raises what ``check_convolutions`` does.

    Args:
        cfg: a checked config.
        network: not wrapped for several processes.
    """

    def check(_network: nn.Module, inputs: tuple[Any, ...]) -> None:
        if network.training:
            handle.remove()
            check_convolutions(cfg, network, inputs[0]["images"])

    handle = network.register_forward_pre_hook(check)


def check_convolutions(cfg: CfgNode, network: nn.Module, images: torch.Tensor) -> None:
    """Compare each kind of convolution that a network has with float32; under autocast.

    PyTorch's half-precision kernels are wrong on some devices, for maps of a few pixels. Weights,
    statistics, random states and the modes of layers stay as they are.

    Args:
        cfg: a checked config.
        network: not wrapped for several processes.
        images: a batch of the training.

    Raises:
        ConfigError: one of them differs by more than rounding.
    """
    began = time.perf_counter()
    device = next(network.parameters()).device
    convolutions = _in_evaluation(cfg, network, images[:1])
    faults = _faults(convolutions, len(images), device, cfg.SOLVER.AMP.DTYPE)
    if not faults:
        took = 1000 * (time.perf_counter() - began)
        logger.info(
            "Half precision: %d kinds of convolution are right (%.0f ms)", len(convolutions), took
        )
        return
    convolution, fault = next(iter(faults.items()))
    kinds = f" (one of {len(faults)} kinds)" if len(faults) > 1 else ""
    remedies = ["set SOLVER.AMP.ENABLED False"]
    other = other_half_type(cfg)
    if other and not _faults(faults, len(images), device, other):
        remedies.insert(0, f"set SOLVER.AMP.DTYPE {other}")
    key = "INPUT.CROP.SIZE" if cfg.INPUT.CROP.ENABLED else "INPUT.SIZE_TRAIN"
    height, width = images.shape[2:]
    remedies.append(f"try larger images than {height}x{width} ({key})")
    dtype = str(autocast_dtype(device, cfg.SOLVER.AMP.DTYPE)).removeprefix("torch.")
    raise ConfigError(
        f"SOLVER.AMP.ENABLED is True, but this {device.type} computes convolutions wrongly in "
        f"{dtype}: layer {convolutions[convolution]}, a {convolution}{kinds}, {fault}; "
        f"{', or '.join(remedies)}"
    )


def _in_evaluation(cfg: CfgNode, network: nn.Module, image: torch.Tensor) -> dict[Convolution, str]:
    """The convolutions of a network in half precision, by a pass that leaves statistics alone."""
    modes = [(module, module.training) for module in network.modules()]

    def forward() -> object:
        # Without the hooks of a training's forward pass, in which this one takes place.
        return network.eval().forward({"images": image})

    try:
        with torch.enable_grad():
            return convolutions_of(
                network, lambda: uncompiled(forward) if cfg.METABIN.COMPILE else forward()
            )
    finally:
        for module, training in modes:
            module.training = training


def _faults(
    convolutions: Collection[Convolution], images: int, device: torch.device, name: str
) -> dict[Convolution, str]:
    dtype = autocast_dtype(device, name)
    found = {kind: fault_of(kind, images, device, dtype) for kind in convolutions}
    return {kind: fault for kind, fault in found.items() if fault}
