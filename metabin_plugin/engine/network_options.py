"""How a network computes: norm form, memory format, graphs and compilation, by config key."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from fastreid.config import CfgNode
from torch import Tensor, nn

from metabin_plugin.engine.graphs import CudaRecorder, GraphedForward, Recorder
from metabin_plugin.errors import ConfigError, NormError
from metabin_plugin.norm import set_norm_form
from metabin_plugin.norm.batch_instance_norm import choose_form
from metabin_plugin.text import shown

logger = logging.getLogger(__name__)


def apply_network_options(network: nn.Module, cfg: CfgNode) -> None:
    """Let a network compute as ``METABIN.NORM_FORM`` and the keys behind it say.

    Parameters, buffers and their names stay as they are, so that checkpoints are those of any other
    setting. The options hold for every call of the backbone, the meta step's included.

    Args:
        network: a network as built, not yet wrapped for several processes; changed in place.
        cfg: the config.

    Raises:
        ConfigError: an option needs a backbone, and the architecture has none of its own; it needs
            a compiler, and there is none that works; or the norm form is not for the device.
    """
    _check_norm_form(cfg)
    set_norm_form(network, cfg.METABIN.NORM_FORM)
    recorder = graph_recorder(cfg)
    backbone = getattr(network, "backbone", None)
    if recorder is not None and isinstance(backbone, nn.Module):
        GraphedForward(backbone, recorder)
    if cfg.METABIN.CHANNELS_LAST:
        _backbone(network, cfg, "CHANNELS_LAST").register_forward_pre_hook(_channels_last)
    if cfg.METABIN.COMPILE:
        _require_compiler(torch.device(cfg.MODEL.DEVICE).type)
        # A batch size met later makes one more version, for all sizes.
        _backbone(network, cfg, "COMPILE").compile()


def graph_recorder(cfg: CfgNode) -> Recorder | None:
    """What records passes of the backbone for ``METABIN.CUDA_GRAPHS``; None for nothing.

    Args:
        cfg: the config; where it asks for what cannot be recorded, the log says so.
    """
    node = cfg.METABIN
    if not node.CUDA_GRAPHS or torch.device(cfg.MODEL.DEVICE).type != "cuda":
        return None
    reasons = {
        "METABIN.SECOND_ORDER differentiates a gradient": node.SECOND_ORDER,
        "METABIN.COMPILE launches in its own way": node.COMPILE,
        "METABIN.SYNC_STATS lets processes talk in every layer": node.SYNC_STATS,
    }
    for reason, holds in reasons.items():
        if holds:
            logger.info("METABIN.CUDA_GRAPHS: the backbone runs eagerly: %s", reason)
            return None
    return CudaRecorder(torch.device(cfg.MODEL.DEVICE))


def uncompiled(forward: Callable[[], object]) -> object:
    """Run a function without the compiled forms of the modules it calls.

    Compiled modules do not heed hooks that their parts got later.
    """
    with torch.compiler.set_stance("force_eager"):
        return forward()


def _backbone(network: nn.Module, cfg: CfgNode, key: str) -> nn.Module:
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ConfigError(
            f"METABIN.{key} is True, but MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} has "
            "no backbone of its own; set it to False"
        )
    return backbone


def _check_norm_form(cfg: CfgNode) -> None:
    try:
        choose_form(cfg.METABIN.NORM_FORM, torch.empty(0, 0, 0, 0, device=cfg.MODEL.DEVICE))
    except NormError as error:
        raise ConfigError(f"METABIN.NORM_FORM: {error}") from error


def _require_compiler(device: str) -> None:
    try:
        torch.compile(torch.sin)(torch.zeros(1, device=device))
    # Whatever a missing or unfit compiler raises.
    except Exception as error:
        raise ConfigError(
            f"METABIN.COMPILE is True, but torch.compile fails on {device} "
            f"({shown(' '.join(str(error).split()))}); install a compiler, or set it to False"
        ) from error


def _channels_last(_backbone: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.contiguous(memory_format=torch.channels_last)
        if isinstance(value, Tensor) and value.dim() == 4
        else value
        for value in inputs
    )
