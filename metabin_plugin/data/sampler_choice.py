"""Which sampler ``DATALOADER.SAMPLER_TRAIN`` names."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from metabin_plugin.errors import ConfigError
from metabin_plugin.registries import SAMPLER_REGISTRY, registered

_FASTREID_SAMPLERS = (
    "TrainingSampler",
    "NaiveIdentitySampler",
    "BalancedIdentitySampler",
    "SetReWeightSampler",
    "ImbalancedDatasetSampler",
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
    if name not in _FASTREID_SAMPLERS:
        choices = ", ".join([*_FASTREID_SAMPLERS, *registered(SAMPLER_REGISTRY)])
        raise ConfigError(f'DATALOADER.SAMPLER_TRAIN is "{name}"; set it to one of {choices}.')
    _check_identities(cfg, train_set)
    return None


def _check_identities(cfg: CfgNode, train_set: Any) -> None:
    # With less than a batch of identities these two samplers search for ever.
    if cfg.DATALOADER.SAMPLER_TRAIN not in ("NaiveIdentitySampler", "BalancedIdentitySampler"):
        return
    needed = cfg.SOLVER.IMS_PER_BATCH // cfg.DATALOADER.NUM_INSTANCE
    if train_set.num_classes < needed:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} with DATALOADER.NUM_INSTANCE "
            f"{cfg.DATALOADER.NUM_INSTANCE} needs {needed} identities, but the training images "
            f"have {train_set.num_classes}; lower the first or raise the second."
        )
