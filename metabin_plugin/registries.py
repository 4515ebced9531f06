"""Registries for what fastreid looks up by hard-coded names.

A third party adds an entry by decorating its own class with ``@NORM_REGISTRY.register()`` (or
another of these) and naming it in the config; nothing in the plugin changes.
"""

from __future__ import annotations

from fastreid.utils.registry import Registry

NORM_REGISTRY = Registry("NORM")
NORM_REGISTRY.__doc__ = """
Norm layers for ``MODEL.BACKBONE.NORM``, called with ``obj(num_features, eps=..., momentum=...)``.

The backbone is built (and its pretrained weights loaded) with batch normalization first; then every
``nn.BatchNorm2d`` in it is replaced.
"""

BACKBONE_NORM_REGISTRY = Registry("BACKBONE_NORM")
BACKBONE_NORM_REGISTRY.__doc__ = """
Changes of a whole backbone for ``MODEL.BACKBONE.NORM``, called with ``obj(network)``, which has
batch normalization and its pretrained weights; they return the network to use.
"""

SAMPLER_REGISTRY = Registry("SAMPLER")
SAMPLER_REGISTRY.__doc__ = """
Training samplers for ``DATALOADER.SAMPLER_TRAIN``, called with ``obj(cfg, dataset)``; they yield an
endless stream of dataset indices, of which this rank takes ``IMS_PER_BATCH / world size`` a batch.
"""

# fastreid's own; it knows them by name, not by a registry. One of its own is left out, for
# SetReWeightSampler cannot draw a batch from any data.
SAMPLER_NAMES = (
    "TrainingSampler",
    "NaiveIdentitySampler",
    "BalancedIdentitySampler",
    "ImbalancedDatasetSampler",
)

HOOK_REGISTRY = Registry("HOOK")
HOOK_REGISTRY.__doc__ = """
Hooks for ``METABIN.HOOKS``, called with ``obj(cfg, trainer)``; each gives a fastreid ``HookBase``.
A hook with ``state_dict`` and ``load_state_dict`` is checkpointed under its registered name. The
state is plain values and tensors; ``load_state_dict`` raises ``ValueError`` for what is not one.
A method ``base_batch(batch)`` returns what the base step is to see of a batch.
"""

META_LOSS_REGISTRY = Registry("META_LOSS")
META_LOSS_REGISTRY.__doc__ = """
Losses for ``METABIN.META_TRAIN_LOSSES`` and ``META_TEST_LOSSES``, called with ``obj(rows)``, a
``metabin_plugin.modeling.MetaRows``; they return a scalar that is differentiated with respect to
what the meta step moves.
"""

BASE_LOSS_REGISTRY = Registry("BASE_LOSS")
BASE_LOSS_REGISTRY.__doc__ = """
Losses for ``METABIN.BASE_LOSSES``, called with ``obj(cfg)``, each a
``metabin_plugin.modeling.BaseLoss``: a module that computes a scalar of the ``BaseRows`` of a base
step.
"""


def add(registry: Registry, name: str, entry: object) -> None:
    """Put an entry into a fastreid registry under a name, unless that name is taken.

    Args:
        registry: one of these, or of fastreid's.
        name: the name that configs use.
        entry: the class or function.
    """
    if name not in registry._obj_map:
        registry._do_register(name, entry)


def registered(registry: Registry) -> list[str]:
    """Names in a fastreid registry, sorted."""
    return sorted(registry._obj_map)


def sampler_names() -> list[str]:
    """Names of training samplers, fastreid's own and registered ones."""
    return [*SAMPLER_NAMES, *registered(SAMPLER_REGISTRY)]
