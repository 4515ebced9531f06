"""The check of a whole config, before anything is built: the plugin's keys and fastreid's own.

fastreid itself fails on its keys without a reason, if it fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.layers import any_softmax, pooling
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.utils import comm
from torch import nn

from metabin_plugin.compat.imports import require_faiss
from metabin_plugin.config.keys import KEYS, LARGEST_SEED
from metabin_plugin.config.table import (
    Choice,
    Count,
    Names,
    Number,
    Numbers,
    Rule,
    check_keys,
    check_types,
    check_values,
    shown_value,
)
from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling import BaselineWithLosses, MetaBIN
from metabin_plugin.modeling.backbones import FAMILIES, FLAGS
from metabin_plugin.registries import (
    BACKBONE_NORM_REGISTRY,
    NORM_REGISTRY,
    registered,
    sampler_names,
)

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

    Args:
        cfg: the config.

    Raises:
        ConfigError: a key's value cannot work; the sentence names both and the remedy.
    """
    check_types(cfg, get_cfg())
    check_keys(cfg, KEYS)
    _check_fastreid(cfg)
    check_mixed_precision(cfg)
    _check_seed(cfg.METABIN.SEED)
    _check_inner_lr(cfg.METABIN.INNER_LR)
    _check_meta_step(cfg)
    _check_compilation(cfg.METABIN)
    _check_mixing(cfg.METABIN)
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    _check_synchronization(cfg, architecture)
    _check_base_losses(cfg, architecture)
    if hasattr(architecture, "check_config"):
        architecture.check_config(cfg)


def check_data_keys(cfg: CfgNode) -> None:
    """Check the keys that name the data and share it out.

    Args:
        cfg: the config.

    Raises:
        ConfigError: a key's value cannot work.
    """
    check_values(cfg, _DATA)
    if not cfg.DATASETS.TESTS and cfg.TEST.EVAL_PERIOD > 0:
        raise ConfigError(
            "DATASETS.TESTS is empty; name at least one dataset to evaluate on, or set "
            "TEST.EVAL_PERIOD 0 to train without evaluation"
        )
    train, test = cfg.SOLVER.IMS_PER_BATCH, cfg.TEST.IMS_PER_BATCH
    processes = comm.get_world_size()
    if train % processes or train // processes < 2:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {train!r}; make it a multiple of the number of processes, "
            f"{processes}, with at least 2 images for each, which batch normalization needs"
        )
    if test < processes:
        raise ConfigError(
            f"TEST.IMS_PER_BATCH is {test!r}, but {processes} processes share its images; raise it "
            f"to at least {processes}"
        )


def check_mixed_precision(cfg: CfgNode) -> None:
    """Check that the device has the half-precision type; each key for itself is right.

    Args:
        cfg: the config.

    Raises:
        ConfigError: it has not.
    """
    amp = cfg.SOLVER.AMP
    if amp.ENABLED and amp.DTYPE == "float16" and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        raise ConfigError(
            "SOLVER.AMP.DTYPE is 'float16', which needs a GPU, but MODEL.DEVICE is "
            f"{cfg.MODEL.DEVICE!r}; set SOLVER.AMP.DTYPE bfloat16"
        )


def _check_seed(seed: int) -> None:
    processes = comm.get_world_size()
    largest = LARGEST_SEED + 1 - processes
    if seed > largest:
        raise ConfigError(
            f"METABIN.SEED is {seed!r}, to which each of {processes} processes adds its number; "
            f"set it to at most {largest}"
        )


def _check_inner_lr(node: CfgNode) -> None:
    if node.HIGH < node.LOW:
        raise ConfigError(
            f"METABIN.INNER_LR.HIGH is {node.HIGH!r}, below LOW, {node.LOW}; swap them, or set "
            "both to the same value for a fixed step size"
        )


def _check_meta_step(cfg: CfgNode) -> None:
    node = cfg.METABIN
    if node.INNER_DIRECTION == "random" and node.SECOND_ORDER:
        raise ConfigError(
            "METABIN.INNER_DIRECTION is 'random', whose step has no second-order term, which "
            "METABIN.SECOND_ORDER True asks for; set SECOND_ORDER to False"
        )
    if node.FREEZE_AFTER and not node.EPISODE_SEPARATION:
        raise ConfigError(
            f"METABIN.FREEZE_AFTER is {node.FREEZE_AFTER!r}, but with METABIN.EPISODE_SEPARATION "
            "False the base step would go on moving the gates; set one of the two back"
        )
    if node.OUTER_LR_WARMUP and cfg.SOLVER.WARMUP_ITERS == 0:
        raise ConfigError(
            "METABIN.OUTER_LR_WARMUP is True, but SOLVER.WARMUP_ITERS is 0, so that nothing warms "
            "up; set WARMUP_ITERS, or OUTER_LR_WARMUP to False"
        )
    if "MetaLearningHook" in node.HOOKS:
        _check_meta_losses(node, cfg.MODEL.LOSSES)


def _check_meta_losses(node: CfgNode, of_base_step: CfgNode) -> None:
    epsilon, margin = of_base_step.CE.EPSILON, of_base_step.TRI.MARGIN
    for side in ("META_TRAIN_LOSSES", "META_TEST_LOSSES"):
        if "TripletLoss" in node[side] and margin == 0:
            raise ConfigError(
                f"METABIN.{side} has TripletLoss, which has no soft margin as "
                f"MODEL.LOSSES.TRI.MARGIN {margin!r} asks for; set MARGIN to a number above 0"
            )
        if "CrossEntropyLoss" in node[side] and epsilon < 0:
            raise ConfigError(
                f"METABIN.{side} has CrossEntropyLoss, which has no adaptive smoothing as "
                f"MODEL.LOSSES.CE.EPSILON {epsilon!r} asks for; set EPSILON to 0 or more"
            )


def _check_compilation(node: CfgNode) -> None:
    if node.COMPILE and node.SECOND_ORDER and "MetaLearningHook" in node.HOOKS:
        raise ConfigError(
            "METABIN.COMPILE is True, but what torch.compile makes has no second derivative, which "
            "METABIN.SECOND_ORDER True needs; set one of the two to False"
        )


def _check_mixing(node: CfgNode) -> None:
    if node.COMPILE and node.MIXSTYLE.PROBABILITY > 0:
        raise ConfigError(
            "METABIN.COMPILE is True, but a compiled backbone does not mix styles, which "
            f"METABIN.MIXSTYLE.PROBABILITY {node.MIXSTYLE.PROBABILITY} asks for; set one of the "
            "two to False or 0"
        )


def _check_synchronization(cfg: CfgNode, architecture: type) -> None:
    if cfg.METABIN.SYNC_STATS and not issubclass(architecture, MetaBIN):
        raise ConfigError(
            "METABIN.SYNC_STATS is True, but MODEL.META_ARCHITECTURE is "
            f"{cfg.MODEL.META_ARCHITECTURE!r}, which keeps losses and statistics to each process; "
            "use MetaBIN (METABIN.HOOKS () trains it without meta-learning), or set it to False"
        )


def _check_base_losses(cfg: CfgNode, architecture: type) -> None:
    if cfg.METABIN.BASE_LOSSES and not issubclass(architecture, BaselineWithLosses):
        raise ConfigError(
            f"METABIN.BASE_LOSSES is {tuple(cfg.METABIN.BASE_LOSSES)!r}, which "
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r} does not compute; choose "
            "MetaBIN or BaselineWithLosses"
        )


def _norms() -> list[str]:
    return ["BN", "syncBN", "GhostBN", "FrozenBN", "GN", *registered(NORM_REGISTRY)]


def _norms_of_vectors() -> list[str]:
    # Nothing of one is left by IN, and a frozen one cannot be initialized.
    return [name for name in _norms() if name not in ("IN", "FrozenBN")]


def _layers(module: ModuleType) -> list[str]:
    return sorted(name for name, entry in vars(module).items() if _is_a(entry, nn.Module))


def _optimizers() -> list[str]:
    # These three take no parameter groups, dense gradients or vectors.
    unusable = ("Optimizer", "LBFGS", "SparseAdam", "Muon")
    entries = vars(torch.optim).items()
    return sorted(n for n, e in entries if _is_a(e, torch.optim.Optimizer) and n not in unusable)


def _is_a(entry: object, base: type) -> bool:
    return isinstance(entry, type) and issubclass(entry, base)


# Of an image, in pixels.
_LARGEST_SIDE = 2**16

_RULES: Mapping[str, Rule] = {
    "MODEL.META_ARCHITECTURE": Choice(lambda: registered(META_ARCH_REGISTRY)),
    "MODEL.FREEZE_LAYERS": Names(),
    "MODEL.PIXEL_MEAN": Numbers(3),
    "MODEL.PIXEL_STD": Numbers(3, above=0),
    "MODEL.BACKBONE.NAME": Choice(lambda: registered(BACKBONE_REGISTRY)),
    "MODEL.BACKBONE.NORM": Choice(lambda: [*_norms(), *registered(BACKBONE_NORM_REGISTRY)]),
    "MODEL.BACKBONE.FEAT_DIM": Count(1),
    "MODEL.BACKBONE.LAST_STRIDE": Count(1),
    "MODEL.HEADS.NAME": Choice(lambda: registered(REID_HEADS_REGISTRY)),
    "MODEL.HEADS.NORM": Choice(_norms),
    "MODEL.HEADS.EMBEDDING_DIM": Count(0),
    "MODEL.HEADS.NUM_CLASSES": Count(0),
    "MODEL.HEADS.SCALE": Number(0),
    # Below 0 the smoothing adapts itself, with ALPHA.
    "MODEL.LOSSES.CE.EPSILON": Number(-1, 1),
    "MODEL.LOSSES.CE.ALPHA": Number(0, 1),
    "MODEL.LOSSES.CE.SCALE": Number(0),
    "MODEL.LOSSES.TRI.MARGIN": Number(0),
    "MODEL.LOSSES.TRI.SCALE": Number(0),
    "MODEL.LOSSES.CIRCLE.GAMMA": Number(0),
    "MODEL.LOSSES.CIRCLE.SCALE": Number(0),
    "MODEL.LOSSES.COSFACE.GAMMA": Number(0),
    "MODEL.LOSSES.COSFACE.SCALE": Number(0),
    "INPUT.CROP.SIZE": Numbers(2, above=0),
    "INPUT.CROP.SCALE": Numbers(2, above=0),
    "INPUT.CROP.RATIO": Numbers(2, above=0),
    "INPUT.FLIP.PROB": Number(0, 1),
    "INPUT.PADDING.MODE": Choice(("constant", "edge", "reflect", "symmetric")),
    "INPUT.PADDING.SIZE": Count(0, _LARGEST_SIDE),
    "INPUT.RPT.PROB": Number(0, 1),
    "INPUT.CJ.PROB": Number(0, 1),
    "INPUT.CJ.BRIGHTNESS": Number(0),
    "INPUT.CJ.CONTRAST": Number(0),
    "INPUT.CJ.SATURATION": Number(0),
    "INPUT.CJ.HUE": Number(0, 0.5),
    "INPUT.AUTOAUG.PROB": Number(0, 1),
    "INPUT.AUGMIX.PROB": Number(0, 1),
    "INPUT.REA.PROB": Number(0, 1),
    "INPUT.REA.VALUE": Numbers(3),
    "DATALOADER.NUM_WORKERS": Count(0),
    "SOLVER.OPT": Choice(_optimizers),
    "SOLVER.MAX_EPOCH": Count(1),
    "SOLVER.BASE_LR": Number(0),
    "SOLVER.HEADS_LR_FACTOR": Number(0),
    "SOLVER.BIAS_LR_FACTOR": Number(0),
    "SOLVER.MOMENTUM": Number(0),
    "SOLVER.WEIGHT_DECAY": Number(0),
    "SOLVER.WEIGHT_DECAY_NORM": Number(0),
    "SOLVER.WEIGHT_DECAY_BIAS": Number(0),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": Choice(("value", "norm")),
    "SOLVER.SCHED": Choice(("MultiStepLR", "CosineAnnealingLR")),
    "SOLVER.GAMMA": Number(0),
    "SOLVER.ETA_MIN_LR": Number(0),
    "SOLVER.DELAY_EPOCHS": Count(0),
    "SOLVER.WARMUP_METHOD": Choice(("constant", "linear", "exp")),
    "SOLVER.WARMUP_FACTOR": Number(0),
    "SOLVER.WARMUP_ITERS": Count(0),
    "SOLVER.FREEZE_ITERS": Count(0),
    "SOLVER.CHECKPOINT_PERIOD": Count(1),
    "TEST.METRIC": Choice(("cosine", "euclidean")),
    "TEST.EVAL_PERIOD": Count(0),
}
# Other heads may have options of their own.
_EMBEDDING_HEAD: Mapping[str, Rule] = {
    "MODEL.HEADS.NECK_FEAT": Choice(("before", "after")),
    "MODEL.HEADS.POOL_LAYER": Choice(lambda: _layers(pooling)),
    "MODEL.HEADS.CLS_LAYER": Choice(lambda: _layers(any_softmax)),
}
_EXPANSION: Mapping[str, Rule] = {
    "TEST.AQE.QE_TIME": Count(1),
    "TEST.AQE.QE_K": Count(1),
    "TEST.AQE.ALPHA": Number(0),
}
_PRECISE_BN: Mapping[str, Rule] = {"TEST.PRECISE_BN.NUM_ITER": Count(1)}
_DATA: Mapping[str, Rule] = {
    "DATASETS.NAMES": Names(),
    "DATASETS.TESTS": Names(),
    "DATALOADER.SAMPLER_TRAIN": Choice(sampler_names),
    "DATALOADER.NUM_INSTANCE": Count(1),
    "SOLVER.IMS_PER_BATCH": Count(1),
    "TEST.IMS_PER_BATCH": Count(1),
}


def _check_fastreid(cfg: CfgNode) -> None:
    """Check fastreid's keys; their types are right."""
    if cfg.TEST.METRIC == "jaccard":
        raise ConfigError(
            "TEST.METRIC is 'jaccard', a distance that needs neighbours; set TEST.RERANK.ENABLED "
            "True and TEST.RERANK.LAMBDA 0 for it, with METRIC cosine or euclidean to find them"
        )
    check_values(cfg, _RULES)
    if cfg.MODEL.HEADS.NAME in ("EmbeddingHead", "ClasHead"):
        if cfg.MODEL.HEADS.WITH_BNNECK:
            Choice(_norms_of_vectors).check("MODEL.HEADS.NORM", cfg.MODEL.HEADS.NORM)
        check_values(cfg, _EMBEDDING_HEAD)
    for step in cfg.SOLVER.STEPS:
        Count(0).check("SOLVER.STEPS", step)
    _check_device(cfg.MODEL.DEVICE)
    _check_augmentation(cfg.INPUT)
    _check_crop(cfg.INPUT.CROP)
    _check_optimizer(cfg.SOLVER)
    is_cropped, is_padded = cfg.INPUT.CROP.ENABLED, cfg.INPUT.PADDING.ENABLED
    # What was padded is cropped to this size.
    _check_size("INPUT.SIZE_TRAIN", cfg.INPUT.SIZE_TRAIN, is_padded or is_cropped, not is_padded)
    _check_size("INPUT.SIZE_TEST", cfg.INPUT.SIZE_TEST, is_cropped, True)
    if cfg.TEST.PRECISE_BN.ENABLED:
        check_values(cfg, _PRECISE_BN)
    if cfg.TEST.AQE.ENABLED:
        check_values(cfg, _EXPANSION)
        _check_alpha(cfg.TEST.AQE.ALPHA)
    if cfg.TEST.RERANK.ENABLED:
        _check_reranking(cfg.TEST.RERANK)
    check_data_keys(cfg)
    _check_architecture(cfg)


def _check_augmentation(node: CfgNode) -> None:
    # fastreid's default is 0, with which these two do nothing.
    for name in ("AUTOAUG", "AUGMIX"):
        if node[name].ENABLED and node[name].PROB == 0:
            raise ConfigError(
                f"INPUT.{name}.ENABLED is True, but INPUT.{name}.PROB is 0, so that no image is "
                "changed; raise it, to 0.1 for example"
            )


def _check_crop(node: CfgNode) -> None:
    for pixels in node.SIZE:
        Count(1, _LARGEST_SIDE).check("INPUT.CROP.SIZE", pixels)
    for key in ("SCALE", "RATIO"):
        low, high = node[key]
        if low > high:
            raise ConfigError(
                f"INPUT.CROP.{key} is {shown_value(node[key])}, an interval; give it the smaller "
                "one first"
            )


def _check_optimizer(node: CfgNode) -> None:
    if node.OPT == "SGD" and node.NESTEROV and node.MOMENTUM == 0:
        raise ConfigError(
            "SOLVER.NESTEROV is True, but SOLVER.MOMENTUM is 0, which leaves nothing to look ahead "
            "by; raise it, to 0.9 for example, or set NESTEROV False"
        )
    # A negative one would turn the steps around.
    for key in ("CLIP_VALUE", "NORM_TYPE") if node.CLIP_GRADIENTS.ENABLED else ():
        value = node.CLIP_GRADIENTS[key]
        if not value > 0:
            raise ConfigError(f"SOLVER.CLIP_GRADIENTS.{key} is {value!r}; give it a number above 0")


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
    processes = comm.get_world_size()
    if device.type == "cuda" and device.index is not None and processes > 1:
        raise ConfigError(
            f"MODEL.DEVICE is {name!r}, one GPU for {processes} processes; set it to cuda, with "
            "which each takes its own"
        )


def _check_size(key: str, size: Any, is_cropped: bool, may_be_none: bool) -> None:
    # Of a single number fastreid makes the shorter side, and only equal images fill a batch.
    if len(size) != 2 and not (is_cropped and len(size) == 1):
        raise ConfigError(f"{key} is {shown_value(size)}; give it a height and a width in pixels")
    # Without a size it resizes nothing.
    low = 0 if is_cropped and may_be_none and not any(size) else 1
    for pixels in size:
        Count(low, _LARGEST_SIDE).check(key, pixels)


def _check_alpha(alpha: float) -> None:
    if alpha != int(alpha):
        raise ConfigError(
            f"TEST.AQE.ALPHA is {alpha!r}, a power that the negative cosine of a neighbour does "
            "not have; give it a whole number"
        )


def _check_reranking(node: CfgNode) -> None:
    Count(1).check("TEST.RERANK.K1", node.K1)
    Count(1, node.K1).check("TEST.RERANK.K2", node.K2)
    Number(0, 1).check("TEST.RERANK.LAMBDA", node.LAMBDA)
    require_faiss()


_VIT = "build_vit_backbone"
_MGN_LOSSES = ("CrossEntropyLoss", "TripletLoss")
_LOSSES = (*_MGN_LOSSES, "CircleLoss", "Cosface")
# Its branches have the bottleneck blocks of a ResNet's last stage.
_MGN_BACKBONE: Mapping[str, tuple[object, ...]] = {
    "NAME": ("build_resnet_backbone",),
    "DEPTH": ("50x", "101x"),
    "FEAT_DIM": (2048,),
}
# Rows of features that torch.chunk cuts into three: three, and five or more.
_MGN_STRIPES, _MGN_HEIGHT = 3, 67


def _check_architecture(cfg: CfgNode) -> None:
    """Check that architecture, backbone and losses can work together."""
    _check_vit(cfg.MODEL)
    _check_flags(cfg.MODEL.BACKBONE)
    name = cfg.MODEL.META_ARCHITECTURE
    # Others may have losses of their own.
    if name in ("Baseline", "BaselineWithLosses", "MetaBIN", *_ARCHITECTURES):
        needs_one = not cfg.METABIN.BASE_LOSSES
        losses = Names(_MGN_LOSSES if name == "MGN" else _LOSSES, needs_one)
        losses.check("MODEL.LOSSES.NAME", cfg.MODEL.LOSSES.NAME)
        is_frozen = cfg.SOLVER.FREEZE_ITERS > 0 and "heads" in cfg.MODEL.FREEZE_LAYERS
        if is_frozen and name != "MGN":
            raise ConfigError(
                "MODEL.FREEZE_LAYERS has 'heads', which fastreid puts into evaluation mode, where "
                "it gives no class scores; name parts of it, such as heads.bottleneck"
            )
    if name in _ARCHITECTURES:
        _ARCHITECTURES[name](cfg)


def _check_flags(backbone: CfgNode) -> None:
    """Refuse flags that a known backbone does not read."""
    family = FAMILIES.get(backbone.NAME)
    if family is None and backbone.NAME != _VIT:
        return
    changing = family.flags_of(backbone.DEPTH) if family else []
    for flag in FLAGS:
        if backbone[flag] and flag not in changing:
            having = ", ".join(name for name, other in FAMILIES.items() if flag in other.flags)
            raise ConfigError(
                f"MODEL.BACKBONE.{flag} is True, which changes nothing in {backbone.NAME} with "
                f"DEPTH {backbone.DEPTH}; set it to False, or choose a backbone that has such "
                f"layers ({having}; BACKBONES.md has the depths)"
            )


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
        f"{key} is {value!r}, but MODEL.BACKBONE.NAME is {_VIT!r}, a transformer without batch "
        "normalization; choose a convolutional backbone, or META_ARCHITECTURE Baseline with NORM "
        "BN, which leaves the transformer as it is"
    )


def _check_mgn(cfg: CfgNode) -> None:
    for key, choices in _MGN_BACKBONE.items():
        value = cfg.MODEL.BACKBONE[key]
        if value not in choices:
            raise ConfigError(
                f"MODEL.BACKBONE.{key} is {value!r}, with which MODEL.META_ARCHITECTURE MGN does "
                f"not work; set it to {' or '.join(map(str, choices))}"
            )
    if cfg.INPUT.CROP.ENABLED:
        sizes = {"CROP.SIZE": cfg.INPUT.CROP.SIZE}
    else:
        sizes = {key: cfg.INPUT[key] for key in ("SIZE_TRAIN", "SIZE_TEST")}
    for key, size in sizes.items():
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
    size, batch = cfg.MODEL.QUEUE_SIZE, cfg.SOLVER.IMS_PER_BATCH
    Count(1).check("MODEL.QUEUE_SIZE", size)
    if size < batch:
        raise ConfigError(
            f"MODEL.QUEUE_SIZE is {size!r}, but MoCo's queue has to hold the {batch} images of "
            "SOLVER.IMS_PER_BATCH; raise it"
        )
    heads = cfg.MODEL.HEADS
    if heads.NAME == "EmbeddingHead" and heads.NECK_FEAT == "before" and heads.EMBEDDING_DIM:
        raise ConfigError(
            f"MODEL.HEADS.NECK_FEAT is 'before', but MoCo's queue holds the "
            f"{heads.EMBEDDING_DIM} values of MODEL.HEADS.EMBEDDING_DIM that are behind the neck; "
            "set NECK_FEAT after, or EMBEDDING_DIM 0"
        )


def _check_distiller(cfg: CfgNode) -> None:
    Number(0, 1).check("KD.EMA.MOMENTUM", cfg.KD.EMA.MOMENTUM)
    files = {f"KD.{key}": cfg.KD[key] for key in ("MODEL_CONFIG", "MODEL_WEIGHTS")}
    for key, paths in files.items():
        Names().check(key, paths)
    configs, weights = files.values()
    if not configs and not cfg.KD.EMA.ENABLED:
        raise ConfigError(
            "MODEL.META_ARCHITECTURE is 'Distiller', but there is no teacher; name its config in "
            "KD.MODEL_CONFIG and its checkpoint in KD.MODEL_WEIGHTS, or set KD.EMA.ENABLED True"
        )
    if len(configs) != len(weights):
        raise ConfigError(
            f"KD.MODEL_CONFIG names {len(configs)} teachers and KD.MODEL_WEIGHTS {len(weights)}; "
            "name config and checkpoint of each"
        )
    for key, paths in files.items():
        for path in paths:
            if not os.path.isfile(path):
                raise ConfigError(
                    f"{key} has {path!r}, which is not a file; correct the path, or set "
                    "MODEL.META_ARCHITECTURE Baseline to use a trained student without its teachers"
                )


_ARCHITECTURES: Mapping[str, Callable[[CfgNode], None]] = {
    "MGN": _check_mgn,
    "MoCo": _check_moco,
    "Distiller": _check_distiller,
}
