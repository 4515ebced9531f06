"""How a network computes: norm form, memory format and compilation, by config key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fastreid.config import CfgNode
from torch import Tensor, nn

from metabin_plugin.compat.mixed_precision import autocast_dtype
from metabin_plugin.engine.config_types import shown
from metabin_plugin.errors import ConfigError
from metabin_plugin.norm import set_norm_form
from metabin_plugin.norm.compiled_passes import can_compile


def apply_network_options(network: nn.Module, cfg: CfgNode) -> None:
    """Let a network compute as ``METABIN.NORM_FORM``, ``CHANNELS_LAST`` and ``COMPILE`` say.

    Parameters, buffers and their names stay as they are, so that checkpoints are those of any other
    setting. The options hold for every call of the backbone, the meta step's included.

    Args:
        network: a network as built, not yet wrapped for several processes; changed in place.
        cfg: the config.

    Raises:
        ConfigError: an option needs a backbone, and the architecture has none of its own; or it
            needs a compiler, and there is none that works.
    """
    form = cfg.METABIN.NORM_FORM
    set_norm_form(network, form)
    if form == "compiled":
        _require_compiler(cfg, "NORM_FORM", "choose 'auto'")
    if cfg.METABIN.CHANNELS_LAST:
        _backbone(network, cfg, "CHANNELS_LAST").register_forward_pre_hook(_channels_last)
    if cfg.METABIN.COMPILE:
        _require_compiler(cfg, "COMPILE", "set it to False")
        # A batch size met later makes one more version, for all sizes.
        _backbone(network, cfg, "COMPILE").compile()


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


def _require_compiler(cfg: CfgNode, key: str, remedy: str) -> None:
    device = torch.device(cfg.MODEL.DEVICE)
    amp = cfg.SOLVER.AMP
    dtype = autocast_dtype(device, amp.DTYPE) if amp.ENABLED else torch.float32
    channels_last = cfg.METABIN.CHANNELS_LAST
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if not can_compile(device.type, dtype, layout):
        raise ConfigError(
            f"METABIN.{key} is {shown(cfg.METABIN[key])}, but torch.compile fails on {device.type} "
            f"(the log says why); install a compiler, or {remedy}"
        )


def _channels_last(_backbone: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.contiguous(memory_format=torch.channels_last)
        if isinstance(value, Tensor) and value.dim() == 4
        else value
        for value in inputs
    )
