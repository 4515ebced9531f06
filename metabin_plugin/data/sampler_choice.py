"""Which sampler ``DATALOADER.SAMPLER_TRAIN`` names."""

from __future__ import annotations

from typing import Any

from fastreid.utils import comm
from yacs.config import CfgNode

from metabin_plugin.errors import ConfigError
from metabin_plugin.registries import SAMPLER_REGISTRY, registered
from metabin_plugin.text import shown

# fastreid's own; it knows them by name, not by a registry.
SAMPLER_NAMES = (
    "TrainingSampler",
    "NaiveIdentitySampler",
    "BalancedIdentitySampler",
    "SetReWeightSampler",
    "ImbalancedDatasetSampler",
)


def check_sampler(name: str) -> None:
    """Refuse a value of ``DATALOADER.SAMPLER_TRAIN`` that no sampler has as its name.

    Raises:
        ConfigError: none has.
    """
    choices = [*SAMPLER_NAMES, *registered(SAMPLER_REGISTRY)]
    if name not in choices:
        raise ConfigError(
            f"DATALOADER.SAMPLER_TRAIN is {shown(repr(name))}; choose among {', '.join(choices)}"
        )


def build_registered_sampler(cfg: CfgNode, train_set: Any) -> Any:
    """Build the sampler that ``DATALOADER.SAMPLER_TRAIN`` names, if it is a registered one.

    Args:
        cfg: a fastreid config.
        train_set: the training images, a fastreid ``CommDataset``.

    Returns:
        The sampler, or None if the name is that of one of fastreid's own.

    Raises:
        ConfigError: no sampler has this name, or fastreid's would never fill a batch.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name in registered(SAMPLER_REGISTRY):
        return SAMPLER_REGISTRY.get(name)(cfg, train_set)
    check_sampler(name)
    _check_identities(cfg, train_set)
    _check_weights(cfg, train_set)
    return None


def _check_identities(cfg: CfgNode, train_set: Any) -> None:
    # With a batch that these two samplers cannot fill exactly they search for ever.
    if cfg.DATALOADER.SAMPLER_TRAIN not in ("NaiveIdentitySampler", "BalancedIdentitySampler"):
        return
    batch, instances = cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE
    unit = instances * comm.get_world_size()
    if batch < unit or batch % unit:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {batch}, but with {cfg.DATALOADER.SAMPLER_TRAIN} it must be "
            f"a multiple of {unit}, DATALOADER.NUM_INSTANCE x processes; set it to "
            f"{max(1, batch // unit) * unit}."
        )
    needed = batch // instances
    if train_set.num_classes < needed:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {batch} with DATALOADER.NUM_INSTANCE {instances} needs {needed} "
            f"identities, but the training images have {train_set.num_classes}; lower the first or "
            "raise the second."
        )


def _check_weights(cfg: CfgNode, train_set: Any) -> None:
    if cfg.DATALOADER.SAMPLER_TRAIN != "SetReWeightSampler":
        return
    # The sampler looks cameras up by their number, and fastreid's own datasets name them.
    weights = list(cfg.DATALOADER.SET_WEIGHT)
    if not weights or train_set.cams != list(range(len(weights))):
        raise ConfigError(
            "DATALOADER.SAMPLER_TRAIN is SetReWeightSampler, which needs cameras numbered from 0 "
            f"and one entry of DATALOADER.SET_WEIGHT for each, but there are {len(weights)} "
            f"entries and the first camera is {train_set.cams[0]!r}; choose another sampler"
        )
    unit = sum(weights) * cfg.DATALOADER.NUM_INSTANCE
    if unit < 1 or unit >= cfg.SOLVER.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH % unit:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, but with SetReWeightSampler it "
            f"must be a multiple of {unit}, the sum of DATALOADER.SET_WEIGHT x NUM_INSTANCE, and "
            "larger than it"
        )
