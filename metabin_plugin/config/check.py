"""The check of a whole config, before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.utils import comm

from metabin_plugin.compat.training import autocast_dtype
from metabin_plugin.config.fastreid_keys import check_fastreid
from metabin_plugin.config.keys import KEYS, LARGEST_SEED
from metabin_plugin.config.table import check_keys, check_types
from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling import BaselineWithLosses, MetaBIN

_is_checked = ContextVar("_is_checked", default=False)


@contextmanager
def checked(cfg: CfgNode) -> Iterator[None]:
    """Run a block on a config that ``check_config`` has accepted.

    A training passes several doors, each of which is also used alone. The outermost one checks, and
    in its block the others take the config to be right.

    Args:
        cfg: the config.

    Raises:
        ConfigError: as of ``check_config``.
    """
    if not _is_checked.get():
        check_config(cfg)
    token = _is_checked.set(True)
    try:
        yield
    finally:
        _is_checked.reset(token)


def check_config(cfg: CfgNode) -> None:
    """Check the keys that the plugin reads and those that fastreid fails on without a reason.

    A meta-architecture with keys of its own checks them in a class method ``check_config(cfg)``.

    Args:
        cfg: the config.

    Raises:
        ConfigError: a key's value cannot work; the sentence names both and the remedy.
    """
    check_types(cfg, get_cfg())
    check_keys(cfg, KEYS)
    check_fastreid(cfg)
    check_mixed_precision(cfg)
    _check_seed(cfg.METABIN.SEED)
    _check_inner_lr(cfg.METABIN.INNER_LR)
    _check_meta_step(cfg)
    _check_compilation(cfg.METABIN)
    _check_mixing(cfg.METABIN)
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    _check_synchronization(cfg, architecture)
    _check_base_losses(cfg, architecture)
    if hasattr(architecture, "check_config"):
        architecture.check_config(cfg)


def check_mixed_precision(cfg: CfgNode) -> None:
    """Check that the device has the half-precision type; each key for itself is right.

    Args:
        cfg: the config.

    Raises:
        ConfigError: it has not.
    """
    amp = cfg.SOLVER.AMP
    if amp.ENABLED and amp.DTYPE == "float16" and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        raise ConfigError(
            "SOLVER.AMP.DTYPE is 'float16', which needs a GPU, but MODEL.DEVICE is "
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


def _check_seed(seed: int) -> None:
    processes = comm.get_world_size()
    largest = LARGEST_SEED + 1 - processes
    if seed > largest:
        raise ConfigError(
            f"METABIN.SEED is {seed}, to which each of {processes} processes adds its number; set "
            f"it to at most {largest}"
        )


def _check_inner_lr(node: CfgNode) -> None:
    if node.HIGH < node.LOW:
        raise ConfigError(
            f"METABIN.INNER_LR.HIGH is {node.HIGH}, below LOW, {node.LOW}; swap them, or set both "
            "to the same value for a fixed step size"
        )


def _check_meta_step(cfg: CfgNode) -> None:
    node = cfg.METABIN
    if node.INNER_DIRECTION == "random" and node.SECOND_ORDER:
        raise ConfigError(
            "METABIN.INNER_DIRECTION is 'random', whose step has no second-order term, which "
            "METABIN.SECOND_ORDER True asks for; set SECOND_ORDER to False"
        )
    if node.FREEZE_AFTER and not node.EPISODE_SEPARATION:
        raise ConfigError(
            f"METABIN.FREEZE_AFTER is {node.FREEZE_AFTER}, but with METABIN.EPISODE_SEPARATION "
            "False the base step would go on moving the gates; set one of the two back"
        )
    if node.OUTER_LR_WARMUP and cfg.SOLVER.WARMUP_ITERS == 0:
        raise ConfigError(
            "METABIN.OUTER_LR_WARMUP is True, but SOLVER.WARMUP_ITERS is 0, so that nothing warms "
            "up; set WARMUP_ITERS, or OUTER_LR_WARMUP to False"
        )


def _check_compilation(node: CfgNode) -> None:
    if node.COMPILE and node.SECOND_ORDER and "MetaLearningHook" in node.HOOKS:
        raise ConfigError(
            "METABIN.COMPILE is True, but what torch.compile makes has no second derivative, which "
            "METABIN.SECOND_ORDER True needs; set one of the two to False"
        )


def _check_mixing(node: CfgNode) -> None:
    if node.COMPILE and node.MIXSTYLE.PROBABILITY > 0:
        raise ConfigError(
            "METABIN.COMPILE is True, but a compiled backbone does not mix styles, which "
            f"METABIN.MIXSTYLE.PROBABILITY {node.MIXSTYLE.PROBABILITY} asks for; set one of the "
            "two to False or 0"
        )


def _check_synchronization(cfg: CfgNode, architecture: type) -> None:
    if cfg.METABIN.SYNC_STATS and not issubclass(architecture, MetaBIN):
        raise ConfigError(
            "METABIN.SYNC_STATS is True, but MODEL.META_ARCHITECTURE is "
            f"{cfg.MODEL.META_ARCHITECTURE!r}, which keeps losses and statistics to each process; "
            "use MetaBIN (METABIN.HOOKS () trains it without meta-learning), or set it to False"
        )


def _check_base_losses(cfg: CfgNode, architecture: type) -> None:
    if cfg.METABIN.BASE_LOSSES and not issubclass(architecture, BaselineWithLosses):
        raise ConfigError(
            f"METABIN.BASE_LOSSES is {tuple(cfg.METABIN.BASE_LOSSES)}, which "
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r} does not compute; choose "
            "MetaBIN or BaselineWithLosses"
        )
