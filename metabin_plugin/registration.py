"""Making the plugin known to fastreid."""

from __future__ import annotations

import logging

from metabin_plugin import compat
from metabin_plugin.config.keys import add_metabin_config


def register() -> None:
    """Mend fastreid where it is broken and fill its registries; calling it again changes nothing.

    Afterwards ``fastreid.config.get_cfg()`` has the METABIN node,
    ``fastreid.engine.DefaultTrainer`` is ``MetaBINTrainer``, and scripts written for plain
    fastreid can use every name of the plugin.
    Call it before importing from fastreid: fastreid 1.4.0 itself cannot be imported on current
    Python and PyTorch without it.
    """
    compat.apply()
    # The rooms that plug into fastreid can be imported only now.
    from fastreid.config.defaults import _C
    from fastreid.data.datasets import DATASET_REGISTRY
    from fastreid.modeling.meta_arch import META_ARCH_REGISTRY

    from metabin_plugin.compat import extensions
    from metabin_plugin.data import (
        DomainBalancedSampler,
        route_test_loader,
        route_train_loader,
    )
    from metabin_plugin.data.datasets import FURTHER_SOURCES, OWN_SPLITS, SOURCES, TARGETS
    from metabin_plugin.engine import MetaBINTrainer, MetaLearningHook, MLDGHook
    from metabin_plugin.modeling import (
        META_LOSSES,
        MetaBIN,
        insert_dual_norm,
        route_block_deployment,
        route_mobilenetv2,
        route_network_deployment,
        route_norm_layers,
        route_norms,
        route_pretrained,
        route_repvgg,
        route_weights,
    )
    from metabin_plugin.modeling.known_backbones import FAMILIES, MOBILENETV2
    from metabin_plugin.norm import NORMS
    from metabin_plugin.registries import (
        BACKBONE_NORM_REGISTRY,
        HOOK_REGISTRY,
        META_LOSS_REGISTRY,
        NORM_REGISTRY,
        SAMPLER_REGISTRY,
    )

    _log_with_fastreid()
    add_metabin_config(_C)
    for name, norm in NORMS.items():
        extensions.add(NORM_REGISTRY, name, norm)
    extensions.add(BACKBONE_NORM_REGISTRY, "DualNorm", insert_dual_norm)
    extensions.add(SAMPLER_REGISTRY, "DomainBalancedSampler", DomainBalancedSampler)
    extensions.add(HOOK_REGISTRY, "MetaLearningHook", MetaLearningHook)
    extensions.add(HOOK_REGISTRY, "MLDGHook", MLDGHook)
    for name, loss in META_LOSSES.items():
        extensions.add(META_LOSS_REGISTRY, name, loss)
    extensions.add(META_ARCH_REGISTRY, "MetaBIN", MetaBIN)
    for dataset in (*SOURCES, *TARGETS, *FURTHER_SOURCES, *OWN_SPLITS):
        extensions.add(DATASET_REGISTRY, dataset.__name__, dataset)
    extensions.extend_backbones(route_norms, route_pretrained)
    for name in FAMILIES:
        extensions.extend_builder(name, route_mobilenetv2 if name == MOBILENETV2 else route_weights)
    extensions.extend_builder("build_repvgg_backbone", route_repvgg)
    extensions.extend_deployment(route_network_deployment, route_block_deployment)
    extensions.extend_norms(route_norm_layers)
    extensions.extend_loaders(route_train_loader, route_test_loader)
    extensions.extend_optimizer()
    extensions.replace_trainer(MetaBINTrainer)


def _log_with_fastreid() -> None:
    # fastreid's setup_logger gives handlers to its own logger only.
    logging.getLogger("metabin_plugin").parent = logging.getLogger("fastreid")
