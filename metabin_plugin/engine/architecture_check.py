"""What fastreid's own meta-architectures need of the rest of the config."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from fastreid.config import CfgNode

from metabin_plugin.engine.value_checks import check_count, check_names
from metabin_plugin.errors import ConfigError
from metabin_plugin.registries import BACKBONE_NORM_REGISTRY, NORM_REGISTRY, registered

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
