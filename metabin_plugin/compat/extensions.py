"""Opening the places where fastreid looks names up in code rather than in a registry."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from metabin_plugin.compat.patching import rebind, repair

Route = Callable[[Callable[..., Any]], Callable[..., Any]]


def add(registry: Any, name: str, entry: object) -> None:
    """Put an entry into a fastreid registry under a name, unless that name is taken.

    Args:
        registry: a ``fastreid.utils.registry.Registry``.
        name: the name that configs use.
        entry: the class or function.
    """
    if name not in registry._obj_map:
        registry._do_register(name, entry)


def extend_backbones(route_norms: Route, route_pretrained: Route) -> None:
    """Let ``MODEL.BACKBONE.NORM`` take the plugin's values, and check weights.

    Args:
        route_norms: makes the new ``build_backbone`` from fastreid's.
        route_pretrained: makes a ``build_backbone`` with checked weights from the new one.
    """
    from fastreid.modeling.backbones import build

    repair(build, "build_backbone", route_norms)
    repair(build, "build_backbone", route_pretrained)


def extend_builder(name: str, route: Route) -> None:
    """Replace the builder of one backbone.

    Args:
        name: of fastreid's function, and in the registry.
        route: makes the new builder from fastreid's.
    """
    from fastreid.modeling.backbones import BACKBONE_REGISTRY

    owner = sys.modules[BACKBONE_REGISTRY.get(name).__module__]
    repair(owner, name, route)
    BACKBONE_REGISTRY._obj_map[name] = getattr(owner, name)


def extend_deployment(route_network: Route, route_block: Route) -> None:
    """Let RepVGG's ``deploy`` know the plugin's norms.

    Args:
        route_network: makes the new ``RepVGG.deploy`` from fastreid's.
        route_block: makes the new ``RepVGGBlock.deploy`` from fastreid's.
    """
    from fastreid.modeling.backbones import repvgg

    repair(repvgg.RepVGG, "deploy", route_network)
    repair(repvgg.RepVGGBlock, "deploy", route_block)


def extend_norms(route_norm_layers: Route) -> None:
    """Let ``get_norm``, and with it heads and single blocks, take registered norms.

    Args:
        route_norm_layers: makes the new ``get_norm`` from fastreid's.
    """
    from fastreid.layers import batch_norm

    repair(batch_norm, "get_norm", route_norm_layers)


def extend_loaders(route_train_loader: Route, route_test_loader: Route) -> None:
    """Let loaders take manifests, registered samplers and clear errors.

    Args:
        route_train_loader: makes the new ``build_reid_train_loader`` from fastreid's.
        route_test_loader: makes the new ``build_reid_test_loader`` from fastreid's.
    """
    from fastreid.data import build

    repair(build, "build_reid_train_loader", route_train_loader)
    repair(build, "build_reid_test_loader", route_test_loader)


def extend_optimizer() -> None:
    """Treat ``instance_bias`` as the bias it is, and keep weight decay from ``gate``.

    fastreid knows biases by the name ``bias``, and takes a gate for a norm layer's weight. Gates
    have no weight decay in the paper's own optimizer (Section 4.1), nor where they are trained
    jointly: it would pull every channel towards instance normalization.
    """
    from fastreid.solver import build

    repair(build, "get_default_optimizer_params", _with_bin_parameters)


def replace_trainer(trainer: type) -> None:
    """Let scripts that use ``fastreid.engine.DefaultTrainer`` get the plugin's trainer.

    Args:
        trainer: a subclass of ``DefaultTrainer``.
    """
    from fastreid.engine import defaults

    rebind(defaults.DefaultTrainer, trainer)


def _with_bin_parameters(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_default_optimizer_params(model: Any, *args: Any, **kwargs: Any) -> Any:
        override = {}
        factor = kwargs.get("bias_lr_factor")
        if factor is not None and factor != 1.0:
            override["lr"] = kwargs["base_lr"] * factor
        if kwargs.get("weight_decay_bias") is not None:
            override["weight_decay"] = kwargs["weight_decay_bias"]
        own = {"instance_bias": override, "gate": {"weight_decay": 0.0}}
        overrides = {**(kwargs.pop("overrides", None) or {}), **own}
        return original(model, *args, overrides=overrides, **kwargs)

    return get_default_optimizer_params
