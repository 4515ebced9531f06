"""Values of the METABIN node that cannot work."""

from __future__ import annotations

import torch
from fastreid.config import CfgNode
from fastreid.utils import comm

from metabin_plugin.data import check_domain_kind
from metabin_plugin.engine.value_checks import (
    check_choice,
    check_count,
    check_names,
    check_number,
)
from metabin_plugin.errors import ConfigError
from metabin_plugin.norm import NORM_FORMS
from metabin_plugin.registries import HOOK_REGISTRY, META_LOSS_REGISTRY, registered

# numpy.random.seed takes 32 bits.
_SEEDS = 2**32
# Step sizes multiply float32 gradients.
_LARGEST_STEP = float(torch.finfo(torch.float32).max)
# Far beyond any run, and its product with the largest epoch is still exact.
_LONGEST_PERIOD = 1e6


def check_metabin(node: CfgNode) -> None:
    """Check the values of the METABIN node; their types are right.

    Args:
        node: ``cfg.METABIN``.

    Raises:
        ConfigError: a key's value cannot work.
    """
    check_names("METABIN.HOOKS", node.HOOKS, registered(HOOK_REGISTRY))
    check_domain_kind(node.DOMAIN)
    check_choice("METABIN.SCATTER_AVERAGE", node.SCATTER_AVERAGE, ("sample", "domain"))
    for key in ("META_TRAIN_LOSSES", "META_TEST_LOSSES"):
        _check_losses(f"METABIN.{key}", node[key])
    # Each process adds its rank to the seed.
    check_count("METABIN.SEED", node.SEED, -1, _SEEDS - comm.get_world_size())
    check_count("METABIN.ITERS_PER_EPOCH", node.ITERS_PER_EPOCH, 0)
    check_count("METABIN.FIRST_BASE_UPDATES", node.FIRST_BASE_UPDATES, 1)
    check_count("METABIN.IMS_PER_BATCH", node.IMS_PER_BATCH, 0)
    check_count("METABIN.NUM_META_TRAIN", node.NUM_META_TRAIN, 1)
    check_count("METABIN.GRADIENT_SIGNS_PERIOD", node.GRADIENT_SIGNS_PERIOD, 0)
    check_number("METABIN.OUTER_LR", node.OUTER_LR, 0, _LARGEST_STEP)
    check_choice("METABIN.NORM_FORM", node.NORM_FORM, NORM_FORMS)
    check_number("METABIN.FOLD_TOLERANCE", node.FOLD_TOLERANCE, 0, 1)
    _check_inner_lr(node.INNER_LR)


def _check_losses(key: str, names: tuple[str, ...]) -> None:
    choices = registered(META_LOSS_REGISTRY)
    if not names:
        raise ConfigError(
            f"{key} is empty; name at least one of {', '.join(choices)}, or set METABIN.HOOKS () "
            "to train without meta-learning"
        )
    check_names(key, names, choices)


def _check_inner_lr(node: CfgNode) -> None:
    check_number("METABIN.INNER_LR.LOW", node.LOW, 0, _LARGEST_STEP)
    check_number("METABIN.INNER_LR.HIGH", node.HIGH, 0, _LARGEST_STEP)
    check_number("METABIN.INNER_LR.PERIOD", node.PERIOD, 0, _LONGEST_PERIOD)
    if node.HIGH < node.LOW:
        raise ConfigError(
            f"METABIN.INNER_LR.HIGH is {node.HIGH}, below LOW, {node.LOW}; swap them, or set both "
            "to the same value for a fixed step size"
        )
