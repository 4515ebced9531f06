"""Checks of fastreid's own keys, before anything is built."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.layers import any_softmax, pooling
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.utils import comm
from torch import nn

from metabin_plugin.compat.imports import require_faiss
from metabin_plugin.config.values import (
    check_choice,
    check_count,
    check_names,
    check_number,
    check_numbers,
    shown_value,
)
from metabin_plugin.data import check_sampler
from metabin_plugin.errors import ConfigError
from metabin_plugin.registries import (
    BACKBONE_NORM_REGISTRY,
    NORM_REGISTRY,
    registered,
)


def check_evaluation(node: CfgNode) -> None:
    """Check how features are compared; the types are right.

    Args:
        node: ``cfg.TEST``.

    Raises:
        ConfigError: a key's value cannot work, or not without Faiss, which is not installed.
    """
    if node.METRIC == "jaccard":
        raise ConfigError(
            "TEST.METRIC is 'jaccard', a distance that needs neighbours; set TEST.RERANK.ENABLED "
            "True and TEST.RERANK.LAMBDA 0 for it, with METRIC cosine or euclidean to find them"
        )
    check_choice("TEST.METRIC", node.METRIC, ("cosine", "euclidean"))
    if node.AQE.ENABLED:
        check_count("TEST.AQE.QE_TIME", node.AQE.QE_TIME, 1)
        check_count("TEST.AQE.QE_K", node.AQE.QE_K, 1)
        _check_alpha(node.AQE.ALPHA)
    if node.RERANK.ENABLED:
        check_count("TEST.RERANK.K1", node.RERANK.K1, 1)
        check_count("TEST.RERANK.K2", node.RERANK.K2, 1, node.RERANK.K1)
        check_number("TEST.RERANK.LAMBDA", node.RERANK.LAMBDA, 0, 1)
        require_faiss()


def _check_alpha(alpha: float) -> None:
    check_number("TEST.AQE.ALPHA", alpha, 0)
    if alpha != int(alpha):
        raise ConfigError(
            f"TEST.AQE.ALPHA is {alpha}, a power that the negative cosine of a neighbour does not "
            "have; give it a whole number"
        )


FASTREID_NORMS = ("BN", "syncBN", "GhostBN", "FrozenBN", "GN")

# Smallest value of keys that are whole numbers.
_COUNTS = {
    "DATALOADER.NUM_INSTANCE": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.BACKBONE.FEAT_DIM": 1,
    "MODEL.HEADS.EMBEDDING_DIM": 0,
    "MODEL.HEADS.NUM_CLASSES": 0,
    "SOLVER.MAX_EPOCH": 1,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.DELAY_EPOCHS": 0,
    "SOLVER.FREEZE_ITERS": 0,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.CHECKPOINT_ITERS": 0,
    "SOLVER.CHECKPOINT_KEEP": 0,
    "TEST.EVAL_PERIOD": 0,
}
# Keys that are finite numbers, not below 0.
_NUMBERS = (
    "SOLVER.BASE_LR",
    "SOLVER.HEADS_LR_FACTOR",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.MOMENTUM",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WEIGHT_DECAY_NORM",
    "SOLVER.WEIGHT_DECAY_BIAS",
    "SOLVER.GAMMA",
    "SOLVER.WARMUP_FACTOR",
    "MODEL.LOSSES.CE.SCALE",
    "MODEL.LOSSES.TRI.MARGIN",
    "MODEL.LOSSES.TRI.SCALE",
)
# Keys that are lists of finite numbers, how many, and above what they are.
_LISTS = {
    "MODEL.PIXEL_MEAN": (3, -math.inf),
    "MODEL.PIXEL_STD": (3, 0.0),
    "INPUT.CROP.SIZE": (2, 0.0),
    "INPUT.CROP.SCALE": (2, 0.0),
    "INPUT.CROP.RATIO": (2, 0.0),
    "INPUT.REA.VALUE": (3, -math.inf),
}


def check_fastreid(cfg: CfgNode) -> None:
    """Check fastreid's keys; their types are right.

    Args:
        cfg: the config.

    Raises:
        ConfigError: a key's value cannot work.
    """
    for key, low in _COUNTS.items():
        check_count(key, _value(cfg, key), low)
    for key in _NUMBERS:
        check_number(key, _value(cfg, key), 0)
    for key, (count, above) in _LISTS.items():
        check_numbers(key, _value(cfg, key), count, above)
    _check_device(cfg.MODEL.DEVICE)
    _check_network(cfg.MODEL)
    _check_solver(cfg.SOLVER)
    check_evaluation(cfg.TEST)
    _check_size("INPUT.SIZE_TRAIN", cfg.INPUT.SIZE_TRAIN, cfg.INPUT.CROP.ENABLED)
    _check_size("INPUT.SIZE_TEST", cfg.INPUT.SIZE_TEST, cfg.INPUT.CROP.ENABLED)
    check_data_keys(cfg)


def check_data_keys(cfg: CfgNode) -> None:
    """Check the keys that name the data and share it out.

    Args:
        cfg: the config.

    Raises:
        ConfigError: a key's value cannot work.
    """
    check_names("DATASETS.NAMES", cfg.DATASETS.NAMES)
    check_names("DATASETS.TESTS", cfg.DATASETS.TESTS)
    if not cfg.DATASETS.TESTS and cfg.TEST.EVAL_PERIOD > 0:
        raise ConfigError(
            "DATASETS.TESTS is empty; name at least one dataset to evaluate on, or set "
            "TEST.EVAL_PERIOD 0 to train without evaluation"
        )
    check_sampler(cfg.DATALOADER.SAMPLER_TRAIN)
    check_count("DATALOADER.NUM_INSTANCE", cfg.DATALOADER.NUM_INSTANCE, 1)
    _check_batch(cfg.SOLVER.IMS_PER_BATCH, cfg.TEST.IMS_PER_BATCH, comm.get_world_size())


def _check_batch(train: int, test: int, processes: int) -> None:
    check_count("SOLVER.IMS_PER_BATCH", train, 1)
    check_count("TEST.IMS_PER_BATCH", test, 1)
    if train % processes or train // processes < 2:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {train}; make it a multiple of the number of processes, "
            f"{processes}, with at least 2 images for each, which batch normalization needs"
        )
    if test < processes:
        raise ConfigError(
            f"TEST.IMS_PER_BATCH is {test}, but {processes} processes share its images; raise it "
            f"to at least {processes}"
        )


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"MODEL.DEVICE is {shown_value(name)}; choose cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE is {name!r}, but PyTorch sees no GPU here; add MODEL.DEVICE cpu, or "
            "install a PyTorch with CUDA and its driver"
        )
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    # PyTorch wraps large numbers around to negative ones.
    if not 0 <= (device.index or 0) < count:
        raise ConfigError(
            f"MODEL.DEVICE is {name!r}, but PyTorch sees {count} device(s) of this type, numbered "
            "from 0; choose one of these"
        )


def _check_network(model: CfgNode) -> None:
    norms = [*FASTREID_NORMS, *registered(NORM_REGISTRY)]
    check_choice("MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE, registered(META_ARCH_REGISTRY))
    check_choice("MODEL.BACKBONE.NAME", model.BACKBONE.NAME, registered(BACKBONE_REGISTRY))
    backbone_norms = [*norms, *registered(BACKBONE_NORM_REGISTRY)]
    check_choice("MODEL.BACKBONE.NORM", model.BACKBONE.NORM, backbone_norms)
    check_choice("MODEL.HEADS.NAME", model.HEADS.NAME, registered(REID_HEADS_REGISTRY))
    check_choice("MODEL.HEADS.NORM", model.HEADS.NORM, norms)
    # Other heads and architectures may have options of their own.
    if model.HEADS.NAME == "EmbeddingHead":
        check_choice("MODEL.HEADS.NECK_FEAT", model.HEADS.NECK_FEAT, ("before", "after"))
        check_choice("MODEL.HEADS.POOL_LAYER", model.HEADS.POOL_LAYER, _layers(pooling))
        check_choice("MODEL.HEADS.CLS_LAYER", model.HEADS.CLS_LAYER, _layers(any_softmax))


def _check_solver(solver: CfgNode) -> None:
    check_choice("SOLVER.OPT", solver.OPT, _optimizers())
    check_choice("SOLVER.SCHED", solver.SCHED, ("MultiStepLR", "CosineAnnealingLR"))
    check_choice("SOLVER.WARMUP_METHOD", solver.WARMUP_METHOD, ("constant", "linear", "exp"))
    check_choice(
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", solver.CLIP_GRADIENTS.CLIP_TYPE, ("value", "norm")
    )
    for step in solver.STEPS:
        check_count("SOLVER.STEPS", step, 0)


def _check_size(key: str, size: Any, cropped: bool) -> None:
    if len(size) not in (1, 2):
        raise ConfigError(f"{key} is {shown_value(size)}; give it a height and a width in pixels")
    # Without a size fastreid resizes nothing, and only equal images fill a batch.
    low = 0 if cropped and not any(size) else 1
    for pixels in size:
        check_count(key, pixels, low, 2**16)


def _value(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _layers(module: ModuleType) -> list[str]:
    return sorted(name for name, entry in vars(module).items() if _is_a(entry, nn.Module))


def _optimizers() -> list[str]:
    # These three take no parameter groups, dense gradients or vectors.
    unusable = ("Optimizer", "LBFGS", "SparseAdam", "Muon")
    entries = vars(torch.optim).items()
    return sorted(n for n, e in entries if _is_a(e, torch.optim.Optimizer) and n not in unusable)


def _is_a(entry: object, base: type) -> bool:
    return isinstance(entry, type) and issubclass(entry, base)
