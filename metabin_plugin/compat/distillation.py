"""The Distiller builds its teachers on their configs' device, for their configs' number of classes.

A config that names neither says CUDA and none: no distillation on a CPU, and a failure in the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from metabin_plugin.compat.rebinding import repair
from metabin_plugin.errors import ConfigError


def _as_the_student(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, cfg: Any) -> None:
        with _teachers_like(cfg):
            original(self, cfg)

    return __init__


@contextmanager
def _teachers_like(cfg: Any) -> Iterator[None]:
    """A block in which the Distiller's module builds networks as the student's config has them."""
    from fastreid.modeling.meta_arch import distiller

    build_model = distiller.build_model

    def build_teacher(teacher: Any) -> nn.Module:
        teacher.MODEL.DEVICE = cfg.MODEL.DEVICE
        # Its weights come from a checkpoint, or from the student.
        teacher.MODEL.BACKBONE.PRETRAIN = False
        own, classes = teacher.MODEL.HEADS.NUM_CLASSES, cfg.MODEL.HEADS.NUM_CLASSES
        if own and classes and own != classes:
            raise ConfigError(
                f"KD.MODEL_CONFIG has a teacher with MODEL.HEADS.NUM_CLASSES {own}, but the "
                f"student has {classes}; name one that was trained on the same identities"
            )
        teacher.MODEL.HEADS.NUM_CLASSES = own or classes
        return build_model(teacher)

    distiller.build_model = build_teacher
    try:
        yield
    finally:
        distiller.build_model = build_model


def momentum_teacher(network: Any) -> nn.Module | None:
    """The Distiller's teacher that follows the student (``KD.EMA``), which no state dict holds.

    Args:
        network: a network of any architecture.

    Returns:
        None without one.
    """
    return network.model_ts[0] if getattr(network, "ema_enabled", False) else None


def repair_distillation() -> None:
    """Teachers are built on CUDA wherever the student is, and without its classes."""
    from fastreid.modeling.meta_arch.distiller import Distiller

    repair(Distiller, "__init__", _as_the_student)
