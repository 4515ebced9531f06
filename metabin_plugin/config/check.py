"""Checks of a config before anything is built: one sentence for each key that cannot work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.utils import comm

from metabin_plugin.compat.training import autocast_dtype
from metabin_plugin.config.fastreid_check import check_fastreid
from metabin_plugin.config.values import (
    check_choice,
    check_count,
    check_names,
    check_number,
    check_types,
)
from metabin_plugin.data import check_domain_kind
from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling import MetaBIN
from metabin_plugin.norm import NORM_FORMS
from metabin_plugin.registries import (
    BACKBONE_NORM_REGISTRY,
    HOOK_REGISTRY,
    META_LOSS_REGISTRY,
    NORM_REGISTRY,
    registered,
)

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


_VIT = "build_vit_backbone"
_MGN_LOSSES = ("CrossEntropyLoss", "TripletLoss")
_LOSSES = (*_MGN_LOSSES, "CircleLoss", "Cosface")
# Its branches have the bottleneck blocks of a ResNet's last stage.
_MGN_BACKBONE, _MGN_DEPTHS, _MGN_FEATURES = "build_resnet_backbone", ("50x", "101x"), 2048
# Rows of features that torch.chunk cuts into three: three, and five or more.
_MGN_STRIPES, _MGN_HEIGHT = 3, 67


def check_architecture(cfg: CfgNode) -> None:
    """Check that architecture, backbone and losses can work together.

    Args:
        cfg: the config; the types and names in it are right.

    Raises:
        ConfigError: they cannot.
    """
    model = cfg.MODEL
    _check_vit(model)
    if model.META_ARCHITECTURE in ("Baseline", "MetaBIN", *_CHECKS):
        losses = _MGN_LOSSES if model.META_ARCHITECTURE == "MGN" else _LOSSES
        if not model.LOSSES.NAME:
            raise ConfigError(
                f"MODEL.LOSSES.NAME is empty; name at least one of {', '.join(losses)}"
            )
        check_names("MODEL.LOSSES.NAME", model.LOSSES.NAME, losses)
    _CHECKS.get(model.META_ARCHITECTURE, _nothing)(cfg)


def _check_vit(model: CfgNode) -> None:
    norms = [*registered(NORM_REGISTRY), *registered(BACKBONE_NORM_REGISTRY)]
    if model.BACKBONE.NAME != _VIT:
        return
    key, value = "MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE
    if model.BACKBONE.NORM in norms:
        key, value = "MODEL.BACKBONE.NORM", model.BACKBONE.NORM
    elif model.META_ARCHITECTURE != "MetaBIN":
        return
    raise ConfigError(
        f"{key} is {value}, but MODEL.BACKBONE.NAME is {_VIT}, a transformer without batch "
        "normalization; choose a convolutional backbone, or META_ARCHITECTURE Baseline with NORM "
        "BN, which leaves the transformer as it is"
    )


def _check_mgn(cfg: CfgNode) -> None:
    backbone = cfg.MODEL.BACKBONE
    for key, value, choices in (
        ("NAME", backbone.NAME, [_MGN_BACKBONE]),
        ("DEPTH", backbone.DEPTH, _MGN_DEPTHS),
        ("FEAT_DIM", backbone.FEAT_DIM, [_MGN_FEATURES]),
    ):
        if value not in choices:
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE is MGN, which needs MODEL.BACKBONE.{key} "
                f"{' or '.join(map(str, choices))}, not {value}"
            )
    sizes = {key: cfg.INPUT[key] for key in ("SIZE_TRAIN", "SIZE_TEST")}
    for key, size in (
        {"CROP.SIZE": cfg.INPUT.CROP.SIZE} if cfg.INPUT.CROP.ENABLED else sizes
    ).items():
        rows = _rows(size[0])
        # As many as torch.chunk makes of them.
        if -(-rows // max(1, -(-rows // _MGN_STRIPES))) != _MGN_STRIPES:
            raise ConfigError(
                f"INPUT.{key} has a height of {size[0]}, of whose {rows} rows of features MGN "
                f"cannot make {_MGN_STRIPES} stripes; give it {_MGN_HEIGHT} or more"
            )


def _rows(height: int) -> int:
    """Height of ResNet's third stage: a convolution, a pooling and two stages of stride 2."""
    pooled = (height + 1) // 2 // 2
    return -(-pooled // 4)


def _check_moco(cfg: CfgNode) -> None:
    check_count("MODEL.QUEUE_SIZE", cfg.MODEL.QUEUE_SIZE, 1)
    if cfg.MODEL.QUEUE_SIZE < cfg.SOLVER.IMS_PER_BATCH:
        raise ConfigError(
            f"MODEL.QUEUE_SIZE is {cfg.MODEL.QUEUE_SIZE}, but MoCo's queue has to hold the "
            f"{cfg.SOLVER.IMS_PER_BATCH} images of SOLVER.IMS_PER_BATCH; raise it"
        )


def _check_distiller(cfg: CfgNode) -> None:
    configs, weights = cfg.KD.MODEL_CONFIG, cfg.KD.MODEL_WEIGHTS
    check_names("KD.MODEL_CONFIG", configs)
    check_names("KD.MODEL_WEIGHTS", weights)
    if not configs and not cfg.KD.EMA.ENABLED:
        raise ConfigError(
            "MODEL.META_ARCHITECTURE is Distiller, but there is no teacher: name its config in "
            "KD.MODEL_CONFIG and its checkpoint in KD.MODEL_WEIGHTS, or set KD.EMA.ENABLED True"
        )
    if len(configs) != len(weights):
        raise ConfigError(
            f"KD.MODEL_CONFIG names {len(configs)} teachers and KD.MODEL_WEIGHTS {len(weights)}; "
            "name config and checkpoint of each"
        )
    for key, paths in (("KD.MODEL_CONFIG", configs), ("KD.MODEL_WEIGHTS", weights)):
        for path in paths:
            if not os.path.isfile(path):
                raise ConfigError(
                    f"{key} has {path!r}, which is no file; correct the path, or set "
                    "MODEL.META_ARCHITECTURE Baseline to use a trained student without its teachers"
                )


def _nothing(_cfg: CfgNode) -> None:
    pass


_CHECKS: Mapping[str, Callable[[CfgNode], None]] = {
    "MGN": _check_mgn,
    "MoCo": _check_moco,
    "Distiller": _check_distiller,
}


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

    Raises:
        ConfigError: a key's value cannot work; the sentence names both and the remedy.
    """
    check_types(cfg, get_cfg())
    check_fastreid(cfg)
    check_architecture(cfg)
    check_mixed_precision(cfg)
    check_metabin(cfg.METABIN)
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    _check_synchronization(cfg, architecture)
    _check_compilation(cfg.METABIN)
    if hasattr(architecture, "check_config"):
        architecture.check_config(cfg)


def _check_synchronization(cfg: CfgNode, architecture: type) -> None:
    if cfg.METABIN.SYNC_STATS and not issubclass(architecture, MetaBIN):
        raise ConfigError(
            "METABIN.SYNC_STATS is True, but MODEL.META_ARCHITECTURE is "
            f"{cfg.MODEL.META_ARCHITECTURE}, which keeps losses and statistics to each process; "
            "use MetaBIN (METABIN.HOOKS () trains it without meta-learning), or set it to False"
        )


def _check_compilation(node: CfgNode) -> None:
    if node.COMPILE and node.SECOND_ORDER and "MetaLearningHook" in node.HOOKS:
        raise ConfigError(
            "METABIN.COMPILE is True, but what torch.compile makes has no second derivative, which "
            "METABIN.SECOND_ORDER True needs; set one of the two to False"
        )


def check_mixed_precision(cfg: CfgNode) -> None:
    """Check ``SOLVER.AMP.DTYPE``; types, and ``MODEL.DEVICE``, are right.

    Args:
        cfg: the config.

    Raises:
        ConfigError: the type is none, or not one for the device.
    """
    amp = cfg.SOLVER.AMP
    check_choice("SOLVER.AMP.DTYPE", amp.DTYPE, ("auto", "float16", "bfloat16"))
    if amp.ENABLED and amp.DTYPE == "float16" and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        raise ConfigError(
            "SOLVER.AMP.DTYPE is float16, which needs a GPU, but MODEL.DEVICE is "
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
