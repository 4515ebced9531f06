"""Reading a config, and finding values that cannot work before anything is loaded or computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import yaml
from fastreid.config import CfgNode, get_cfg

from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling import META_LOSSES
from metabin_plugin.registries import HOOK_REGISTRY, NORM_REGISTRY, registered

FASTREID_NORMS = ("BN", "syncBN", "GhostBN", "FrozenBN", "GN")


def read_config(config_file: str, options: Sequence[str]) -> CfgNode:
    """fastreid's defaults, changed by a file and then by KEY VALUE pairs.

    Args:
        config_file: path of a YAML file, or "" for none.
        options: keys and values in turn, as on the command line.

    Raises:
        ConfigError: the file or a pair cannot be read, or a key does not exist.
    """
    cfg = get_cfg()
    try:
        if config_file:
            cfg.merge_from_file(config_file)
        cfg.merge_from_list(list(options))
    except (AssertionError, KeyError, OSError, ValueError, yaml.YAMLError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"--config-file {config_file!r} with {' '.join(options) or 'no further keys'}: "
            f"{text}; correct the file or the KEY VALUE pairs"
        ) from error
    return cfg


def check_config(cfg: CfgNode) -> None:
    """Check the keys that the plugin reads and those that fastreid fails on without a reason.

    Raises:
        ConfigError: a key's value cannot work; the sentence names both and the remedy.
    """
    _check_device(cfg.MODEL.DEVICE)
    _check_choice("MODEL.BACKBONE.NORM", cfg.MODEL.BACKBONE.NORM, _norms())
    _check_choice("MODEL.HEADS.NORM", cfg.MODEL.HEADS.NORM, _norms())
    node = cfg.METABIN
    for name in node.HOOKS:
        _check_choice("METABIN.HOOKS", name, registered(HOOK_REGISTRY))
    _check_choice("METABIN.DOMAIN", node.DOMAIN, ("dataset", "camera"))
    _check_choice("METABIN.SCATTER_AVERAGE", node.SCATTER_AVERAGE, ("sample", "domain"))
    for key in ("META_TRAIN_LOSSES", "META_TEST_LOSSES"):
        if not node[key]:
            raise ConfigError(
                f"METABIN.{key} is empty; name at least one of {', '.join(META_LOSSES)}, or set "
                "METABIN.HOOKS () to train without meta-learning"
            )
        for name in node[key]:
            _check_choice(f"METABIN.{key}", name, META_LOSSES)
    _check_at_least("METABIN.SEED", node.SEED, -1)
    _check_at_least("METABIN.ITERS_PER_EPOCH", node.ITERS_PER_EPOCH, 0)
    _check_at_least("METABIN.FIRST_BASE_UPDATES", node.FIRST_BASE_UPDATES, 1)
    _check_at_least("METABIN.IMS_PER_BATCH", node.IMS_PER_BATCH, 0)
    _check_at_least("METABIN.OUTER_LR", node.OUTER_LR, 0)
    _check_at_least("METABIN.INNER_LR.LOW", node.INNER_LR.LOW, 0)
    _check_at_least("METABIN.INNER_LR.PERIOD", node.INNER_LR.PERIOD, 0)
    if node.INNER_LR.HIGH < node.INNER_LR.LOW:
        raise ConfigError(
            f"METABIN.INNER_LR.HIGH is {node.INNER_LR.HIGH}, below LOW, {node.INNER_LR.LOW}; "
            "swap them, or set both to the same value for a fixed step size"
        )


def _norms() -> list[str]:
    return [*FASTREID_NORMS, *registered(NORM_REGISTRY)]


def _check_device(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE is {device!r}, but PyTorch sees no GPU here; add MODEL.DEVICE cpu, or "
            "install a PyTorch with CUDA and its driver"
        )


def _check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} is {value!r}; choose among {', '.join(choices)}")


def _check_at_least(key: str, value: float, low: float) -> None:
    if not value >= low:
        raise ConfigError(f"{key} is {value}; it must be at least {low}")
