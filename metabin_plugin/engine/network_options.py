"""How a network computes: norm, its form, memory format, graphs, compilation, by config key."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.modeling.heads import EmbeddingHead
from fastreid.modeling.meta_arch.baseline import Baseline
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from metabin_plugin.compat.patching import patch
from metabin_plugin.engine.graphs import CudaRecorder, GraphedForward, Recorder
from metabin_plugin.errors import ConfigError, NormError
from metabin_plugin.modeling.backbones import FAMILIES, early_parts
from metabin_plugin.norm import convert_norm, count_gates, set_norm_form, triton_form
from metabin_plugin.norm.batch_instance_norm import choose_form
from metabin_plugin.registries import BACKBONE_NORM_REGISTRY, NORM_REGISTRY, registered
from metabin_plugin.style import MixStyle
from metabin_plugin.text import shown

logger = logging.getLogger(__name__)

# Of fastreid's group normalization.
_GROUPS = 32


@patch(
    "fastreid.modeling.backbones.build:build_backbone",
    fault="The norm layers are looked up by hard-coded names.",
    unless="``MODEL.BACKBONE.NORM`` is one of fastreid's.",
)
def build_with_registered_norm(original: Callable[[CfgNode], nn.Module], cfg: CfgNode) -> nn.Module:
    """Let ``MODEL.BACKBONE.NORM`` name an entry of one of the two registries of norms.

    The backbone is built with batch normalization and gets its pretrained weights; then its norm
    layers are replaced, so that ImageNet weights are those of batch normalization.
    """
    name = cfg.MODEL.BACKBONE.NORM
    if name in registered(BACKBONE_NORM_REGISTRY):
        network = BACKBONE_NORM_REGISTRY.get(name)(original(_with_batch_norm(cfg)))
    elif name in registered(NORM_REGISTRY):
        network = convert_norm(original(_with_batch_norm(cfg)), NORM_REGISTRY.get(name))
    else:
        return original(cfg)
    logger.info("MODEL.BACKBONE.NORM %s: %s", name, _norms(network))
    return network


def _with_batch_norm(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.NORM = "BN"
    return cfg


def _norms(network: nn.Module) -> str:
    """What normalizes a network, in words."""
    counts = Counter(
        type(layer).__name__ for layer in network.modules() if isinstance(layer, _NormBase)
    )
    layers = [f"{count} {kind} layers" for kind, count in counts.items()]
    gates = count_gates(network)[1]
    return ", ".join([*layers, *([f"{gates} gates"] if gates else [])])


@patch(
    "fastreid.layers.batch_norm:get_norm",
    fault="The norm layers are looked up by hard-coded names. Some meta-architectures (MGN) build "
    "blocks of their own with it, besides the backbone's. ``GN`` has 32 groups, and ends in a "
    "traceback where a layer's channels do not go into them.",
    unless="the norm is one of fastreid's, and goes into the layer.",
)
def get_registered_norm(
    original: Callable[..., Any], norm: Any, out_channels: int, **kwargs: Any
) -> Any:
    """Make the layers of ``NORM_REGISTRY`` too, frozen parts included.

    A norm that only a whole backbone can have leaves those blocks with batch normalization. ``GN``
    that does not go into a layer is refused in a sentence.
    """
    if norm == "GN" and out_channels % _GROUPS:
        raise ConfigError(
            f"MODEL.BACKBONE.NORM or MODEL.HEADS.NORM is 'GN', which has {_GROUPS} groups of "
            f"channels, but a layer has {out_channels}; choose another norm, or widths that are "
            f"multiples of {_GROUPS}"
        )
    if norm in registered(BACKBONE_NORM_REGISTRY):
        return original("BN", out_channels, **kwargs)
    if norm in registered(NORM_REGISTRY):
        layer = original("BN", out_channels, **kwargs)
        return convert_norm(layer, NORM_REGISTRY.get(norm))
    return original(norm, out_channels, **kwargs)


def build_network(build: Callable[[CfgNode], nn.Module], cfg: CfgNode) -> nn.Module:
    """Build the network of a config, try its parts on one black image and set its options.

    Args:
        build: fastreid's ``build_model``.
        cfg: the config.

    Returns:
        The network, as built: parameters, buffers and random generators are not touched.

    Raises:
        ConfigError: the backbone does not know its depth, cannot take images of this size, or gives
            what the head cannot take; or an option does not fit the network.
    """
    backbone = cfg.MODEL.BACKBONE
    try:
        network = build(cfg)
    except (KeyError, ValueError, NotImplementedError) as error:
        family = FAMILIES.get(backbone.NAME)
        is_its_depth = (
            error.args == (backbone.DEPTH,)
            if family is None
            else backbone.DEPTH not in family.depths
        )
        if not is_its_depth:
            raise
        choices = "that it has" if family is None else f"of {', '.join(family.depths)}"
        raise ConfigError(
            f"MODEL.BACKBONE.DEPTH is {backbone.DEPTH!r}, which {backbone.NAME} does not have; "
            f"give one {choices}"
        ) from error
    # Other architectures cut the backbone up.
    if isinstance(network, Baseline):
        _check_features(network, cfg)
    # Last, for the one image would be a compiled backbone's first batch size.
    apply_network_options(network, cfg)
    return network


def _check_features(network: nn.Module, cfg: CfgNode) -> None:
    backbone = cfg.MODEL.BACKBONE
    for key, size in _sizes(cfg.INPUT).items():
        images = torch.zeros((1, 3, *(size * 2 if len(size) == 1 else size)))
        try:
            features = _try(network.get_submodule("backbone"), images.to(cfg.MODEL.DEVICE))
        except (AssertionError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{key} is {size!r}, on which {backbone.NAME} fails ({reason}); choose a size "
                "that it takes"
            ) from error
        if isinstance(features, Tensor) and features.shape[1] != backbone.FEAT_DIM:
            raise ConfigError(
                f"MODEL.BACKBONE.FEAT_DIM is {backbone.FEAT_DIM!r}, but {backbone.NAME} with DEPTH "
                f"{backbone.DEPTH} gives {features.shape[1]} features; set it to that"
            )
        _check_head(network.get_submodule("heads"), features, f"{key} {size!r}", cfg)


def _check_head(head: nn.Module, features: Any, size: str, cfg: CfgNode) -> None:
    name, pooling = cfg.MODEL.HEADS.NAME, cfg.MODEL.HEADS.POOL_LAYER
    given = "x".join(map(str, features.shape[1:])) if isinstance(features, Tensor) else "no tensor"
    source = f"what {cfg.MODEL.BACKBONE.NAME} gives for {size} ({given})"
    if isinstance(head, EmbeddingHead):
        if not isinstance(features, Tensor) or features.dim() != 4:
            raise ConfigError(
                f"MODEL.HEADS.NAME is {name!r}, which takes one feature map (N, C, H, W), not "
                f"{source}; let the backbone return one, or register a head of your own"
            )
        pooled = list(_try(head.pool_layer, features).shape[1:])
        if pooled != [features.shape[1], 1, 1]:
            raise ConfigError(
                f"MODEL.HEADS.POOL_LAYER is {pooling!r}, which makes {'x'.join(map(str, pooled))} "
                f"of {source}, where the head needs one value of each channel; choose "
                "GlobalAvgPool, for example"
            )
    try:
        _try(head, features)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"MODEL.HEADS.NAME is {name!r}, which with POOL_LAYER {pooling} and NORM "
            f"{cfg.MODEL.HEADS.NORM} fails on {source}: {reason}; change one of these"
        ) from error


def _sizes(node: CfgNode) -> dict[str, list[int]]:
    """Sizes of the images that training and evaluation read, by their keys; equal ones once."""
    if node.CROP.ENABLED:
        return {"INPUT.CROP.SIZE": list(node.CROP.SIZE)}
    train, test = list(node.SIZE_TRAIN), list(node.SIZE_TEST)
    sizes = {"INPUT.SIZE_TRAIN": train}
    return sizes if train == test else {**sizes, "INPUT.SIZE_TEST": test}


@torch.no_grad()
def _try(part: nn.Module, given: Any) -> Any:
    modes = {module: module.training for module in part.modules()}
    part.eval()
    try:
        return part(given)
    finally:
        for module, training in modes.items():
            module.training = training


def apply_network_options(network: nn.Module, cfg: CfgNode) -> None:
    """Let a network compute as ``METABIN.NORM_FORM`` and the keys behind it say.

    Parameters, buffers and their names stay as they are, so that checkpoints are those of any other
    setting. The options hold for every call of the backbone, the meta step's included.

    Args:
        network: a network as built, not yet wrapped for several processes; changed in place.
        cfg: the config.

    Raises:
        ConfigError: an option needs a backbone, and the architecture has none of its own; it needs
            a compiler, and there is none that works; the norm form is not for the device; or there
            is no such layer to mix styles behind.
    """
    _check_norm_form(cfg)
    set_norm_form(network, cfg.METABIN.NORM_FORM)
    recorder = graph_recorder(cfg)
    backbone = getattr(network, "backbone", None)
    if recorder is not None and isinstance(backbone, nn.Module):
        GraphedForward(backbone, recorder)
    if cfg.METABIN.MIXSTYLE.PROBABILITY > 0:
        node = cfg.METABIN.MIXSTYLE
        parts = backbone if isinstance(backbone, nn.Module) else nn.Module()
        layers = early_parts(parts, cfg, node.LAYERS, "METABIN.MIXSTYLE.LAYERS")
        MixStyle(network, layers, node.PROBABILITY, node.ALPHA, node.PARTNERS == "domain")
    if cfg.METABIN.CHANNELS_LAST:
        _backbone(network, cfg, "CHANNELS_LAST").register_forward_pre_hook(_channels_last)
    if cfg.METABIN.COMPILE:
        _require_compiler(torch.device(cfg.MODEL.DEVICE).type)
        # A batch size met later makes one more version, for all sizes.
        _backbone(network, cfg, "COMPILE").compile()


def graph_recorder(cfg: CfgNode) -> Recorder | None:
    """What records passes of the backbone for ``METABIN.CUDA_GRAPHS``; None for nothing.

    Args:
        cfg: the config; where it asks for what cannot be recorded, the log says so.
    """
    node = cfg.METABIN
    if not node.CUDA_GRAPHS or torch.device(cfg.MODEL.DEVICE).type != "cuda":
        return None
    reasons = {
        "METABIN.SECOND_ORDER differentiates a gradient": node.SECOND_ORDER,
        "METABIN.COMPILE launches in its own way": node.COMPILE,
        "METABIN.SYNC_STATS lets processes talk in every layer": node.SYNC_STATS,
    }
    for reason, holds in reasons.items():
        if holds:
            logger.info("METABIN.CUDA_GRAPHS: the backbone runs eagerly: %s", reason)
            return None
    return CudaRecorder(torch.device(cfg.MODEL.DEVICE))


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
            f"METABIN.{key} is True, but MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r} "
            "has no backbone of its own; set it to False"
        )
    return backbone


def _check_norm_form(cfg: CfgNode) -> None:
    x = torch.empty(0, 0, 0, 0, device=cfg.MODEL.DEVICE)
    form = cfg.METABIN.NORM_FORM
    try:
        chosen = choose_form(form, x)
    except NormError as error:
        raise ConfigError(f"METABIN.NORM_FORM: {error}") from error
    is_second_choice = chosen == "plain" and form != "plain"
    fault = triton_form.fault_on(x.device) if is_second_choice else ""
    if fault:
        logger.warning(
            "METABIN.NORM_FORM %s: Triton compiles nothing for %s (%s), so that layers which mix "
            "norms take the plain form and are much slower; install a C compiler and Python's "
            "headers, if these are what is missing",
            form,
            x.device,
            shown(fault),
        )


def _require_compiler(device: str) -> None:
    try:
        torch.compile(torch.sin)(torch.zeros(1, device=device))
    # Whatever a missing or unfit compiler raises.
    except Exception as error:
        raise ConfigError(
            f"METABIN.COMPILE is True, but torch.compile fails on {device} "
            f"({shown(' '.join(str(error).split()))}); install a compiler, or set it to False"
        ) from error


def _channels_last(_backbone: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.contiguous(memory_format=torch.channels_last)
        if isinstance(value, Tensor) and value.dim() == 4
        else value
        for value in inputs
    )
