"""Making the plugin known to fastreid."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator

from metabin_plugin.compat.patching import Patch, apply, patches_of
from metabin_plugin.config.keys import add_metabin_config

# Each is imported when those before it have been applied: fastreid cannot be imported before the
# first of them, and what the plugin builds on fastreid finds it as all others left it.
_PATCHED_BY = (
    "metabin_plugin.compat.imports",
    "metabin_plugin.compat.runs",
    "metabin_plugin.compat.data",
    "metabin_plugin.compat.networks",
    "metabin_plugin.compat.training",
    "metabin_plugin.compat.evaluation",
    "metabin_plugin.compat.launching",
    "metabin_plugin.weights.checkpointer",
    "metabin_plugin.data.build",
    "metabin_plugin.modeling.backbones",
    "metabin_plugin.weights.pretrained",
    "metabin_plugin.deploy.repvgg",
    "metabin_plugin.engine.network_options",
    "metabin_plugin.engine.trainer",
)


def register() -> None:
    """Patch fastreid and fill its registries; calling it again changes nothing.

    Afterwards ``fastreid.config.get_cfg()`` has the METABIN node,
    ``fastreid.engine.DefaultTrainer`` is ``MetaBINTrainer``, and scripts written for plain
    fastreid can use every name of the plugin. ``compat/PATCHES.md`` lists what is changed.
    Call it before importing from fastreid: fastreid 1.4.0 itself cannot be imported on current
    Python and PyTorch without it.
    """
    for patches in _patches_by_module():
        apply(patches)
    _fill_registries()
    # fastreid's setup_logger gives handlers to its own logger only.
    logging.getLogger("metabin_plugin").parent = logging.getLogger("fastreid")


def all_patches() -> list[Patch]:
    """All changes of fastreid, in the order in which they are made; ``register()`` comes first."""
    return [patch for patches in _patches_by_module() for patch in patches]


def _patches_by_module() -> Iterator[list[Patch]]:
    for name in _PATCHED_BY:
        yield patches_of(importlib.import_module(name))


def _fill_registries() -> None:
    from fastreid.config.defaults import _C
    from fastreid.data.datasets import DATASET_REGISTRY
    from fastreid.modeling.meta_arch import META_ARCH_REGISTRY

    from metabin_plugin.data import DomainBalancedSampler, GraphSampler
    from metabin_plugin.data.datasets import FURTHER_SOURCES, OWN_SPLITS, SOURCES, TARGETS
    from metabin_plugin.engine import MetaLearningHook, MLDGHook
    from metabin_plugin.modeling import (
        BASE_LOSSES,
        META_LOSSES,
        BaselineWithLosses,
        MetaBIN,
        insert_dual_norm,
    )
    from metabin_plugin.norm import NORMS
    from metabin_plugin.registries import (
        BACKBONE_NORM_REGISTRY,
        BASE_LOSS_REGISTRY,
        HOOK_REGISTRY,
        META_LOSS_REGISTRY,
        NORM_REGISTRY,
        SAMPLER_REGISTRY,
        add,
    )

    add_metabin_config(_C)
    for name, norm in NORMS.items():
        add(NORM_REGISTRY, name, norm)
    add(BACKBONE_NORM_REGISTRY, "DualNorm", insert_dual_norm)
    add(SAMPLER_REGISTRY, "DomainBalancedSampler", DomainBalancedSampler)
    add(SAMPLER_REGISTRY, "GraphSampler", GraphSampler)
    add(HOOK_REGISTRY, "MetaLearningHook", MetaLearningHook)
    add(HOOK_REGISTRY, "MLDGHook", MLDGHook)
    for name, loss in META_LOSSES.items():
        add(META_LOSS_REGISTRY, name, loss)
    for name, base_loss in BASE_LOSSES.items():
        add(BASE_LOSS_REGISTRY, name, base_loss)
    add(META_ARCH_REGISTRY, "BaselineWithLosses", BaselineWithLosses)
    add(META_ARCH_REGISTRY, "MetaBIN", MetaBIN)
    for dataset in (*SOURCES, *TARGETS, *FURTHER_SOURCES, *OWN_SPLITS):
        add(DATASET_REGISTRY, dataset.__name__, dataset)
