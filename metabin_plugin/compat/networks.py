"""Backbones, and the meta-architectures MoCo and Distiller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from yacs.config import CfgNode

from metabin_plugin.compat.patching import patch
from metabin_plugin.errors import ConfigError


class BuilderConfig:
    """What one of fastreid's builders reads: one file's values, and defaults for the others.

    Args:
        defaults: the values without a file; they stay as they are.
        root: folder that the files' paths start from.
    """

    def __init__(self, defaults: CfgNode, root: Path) -> None:
        self._defaults, self._root = defaults, root
        self._values = defaults

    def __getattr__(self, node: str) -> Any:
        return getattr(self._values, node)

    def merge_from_file(self, path: str) -> None:
        """Take the values of a YAML file in place of those of the file before.

        Args:
            path: of the file, within the root.
        """
        values = self._defaults.clone()
        values.merge_from_file(str(self._root / path))
        self._values = values


@patch(
    "fastreid.modeling.backbones.regnet.regnet:regnet_cfg",
    "fastreid.modeling.backbones.regnet.effnet:effnet_cfg",
    fault="A RegNet or EfficientNet can be built in a checkout of fastreid alone, as the paths of "
    "its YAML files start at the current folder. And all of them share one config, where values "
    "stay: a RegNetX that is built after a RegNetY gets its squeeze and excitation.",
    unless=None,
)
def own_config(original: CfgNode) -> BuilderConfig:
    """Give each of the two modules a config of its own, which starts anew with each file.

    The paths start at the folder that fastreid is installed in.
    """
    import fastreid

    return BuilderConfig(original, Path(fastreid.__file__).parents[1])


_PYCLS = "https://dl.fbaipublicfiles.com/pycls/dds_baselines/"


@patch(
    "fastreid.modeling.backbones.regnet.regnet:model_urls",
    fault="The address for RegNetX-800MF is that of RegNetX-200MF.",
    unless=None,
)
def regnet_urls(original: dict[str, str]) -> dict[str, str]:
    """Put the right one there, from pycls, which the weights come from."""
    return {**original, "800x": f"{_PYCLS}160906036/RegNetX-800MF_dds_8gpu.pyth"}


@patch(
    "fastreid.modeling.backbones.regnet.effnet:model_urls",
    fault="There is nothing at the addresses for EfficientNet-B3 and -B5.",
    unless=None,
)
def efficientnet_urls(original: dict[str, str]) -> dict[str, str]:
    """Put the right ones there, from pycls, which the weights come from."""
    return {
        **original,
        "b3": f"{_PYCLS}161305060/EN-B3_dds_8gpu.pyth",
        "b5": f"{_PYCLS}161305138/EN-B5_dds_8gpu.pyth",
    }


@patch(
    "fastreid.modeling.backbones.resnext:build_resnext_backbone",
    fault="``MODEL.BACKBONE.DEPTH 152x``, which it lists, ends in a KeyError.",
    unless="``DEPTH`` is another, or ``PRETRAIN`` is set: nobody has published weights that the "
    "rest of the builder could load.",
)
def build_deep_resnext(original: Callable[[Any], Any], cfg: Any) -> Any:
    """Build that network, without non-local layers, whatever ``WITH_NL`` is."""
    from fastreid.modeling.backbones.resnext import Bottleneck, ResNeXt

    backbone = cfg.MODEL.BACKBONE
    if backbone.DEPTH != "152x" or backbone.PRETRAIN:
        return original(cfg)
    blocks, non_local = (3, 8, 36, 3), (0, 0, 0, 0)
    norm, with_ibn, with_nl = backbone.NORM, backbone.WITH_IBN, backbone.WITH_NL
    return ResNeXt(backbone.LAST_STRIDE, norm, with_ibn, with_nl, Bottleneck, blocks, non_local)


# Of a place in MoCo's queue that holds no image yet: no identity's number.
NO_IDENTITY = -1

# Nothing in a sum of exponentials, and finite, so that a row of it has a gradient.
_NEGLIGIBLE = -1e8


@patch(
    "fastreid.modeling.meta_arch.moco:Memory.__init__",
    fault="The random features that fill MoCo's queue at first count as images of identity 0.",
    unless=None,
)
def init_without_identities(
    original: Callable[..., None], self: Any, *args: Any, **kwargs: Any
) -> None:
    """Give them no identity, so that they are negatives for all."""
    original(self, *args, **kwargs)
    self.queue_label.fill_(NO_IDENTITY)


@patch(
    "fastreid.modeling.meta_arch.moco:Memory._dequeue_and_enqueue",
    fault="MoCo stops with an AssertionError where the batch does not divide ``MODEL.QUEUE_SIZE``.",
    unless="it divides it.",
)
@torch.no_grad()
def enqueue_around_the_end(self: Any, keys: Tensor, targets: Tensor) -> None:
    """Let the images go around the queue's end."""
    from fastreid.modeling.losses.utils import concat_all_gather
    from fastreid.utils import comm

    if comm.get_world_size() > 1:
        keys, targets = concat_all_gather(keys), concat_all_gather(targets)
    places = _places(self, 0, len(keys))
    self.queue[:, places] = keys.T.to(self.queue.dtype)
    self.queue_label[:, places] = targets
    self.queue_ptr.add_(len(keys)).remainder_(self.K)


@patch(
    "fastreid.modeling.meta_arch.moco:Memory._pairwise_cosface",
    fault="MoCo's loss should not pair an image with itself, but leaves out the pairs with the "
    "queue's first places, whichever images they hold.",
    unless=None,
)
def cosface_without_itself(self: Any, features: Tensor, targets: Tensor) -> Tensor:
    """Leave out the pair of the image with itself, wherever in the queue it is."""
    from fastreid.utils import comm

    count = len(features)
    # This process's own images among the last ones of the queue.
    before_the_end = (comm.get_world_size() - comm.get_rank()) * count
    own = _places(self, -before_the_end, count)
    similarities = features @ self.queue.to(features.dtype)
    is_same = targets[:, None] == self.queue_label
    is_itself = torch.zeros_like(is_same)
    is_itself[torch.arange(count, device=own.device), own] = True
    positives = (-self.gamma * similarities).masked_fill(~is_same | is_itself, _NEGLIGIBLE)
    negatives = (self.gamma * (similarities + self.margin)).masked_fill(is_same, _NEGLIGIBLE)
    return functional.softplus(positives.logsumexp(1) + negatives.logsumexp(1)).mean()


def _places(memory: Any, offset: int, count: int) -> Tensor:
    """Places in the queue, counted from the next to be filled, which moves around its end."""
    steps = torch.arange(offset, offset + count, device=memory.queue.device)
    return (memory.queue_ptr + steps) % memory.K


@patch(
    "fastreid.modeling.meta_arch.distiller:Distiller.__init__",
    fault="The teachers are built on CUDA wherever the student is, and without its classes. The "
    "momentum teacher (``KD.EMA``) reads ``MODEL.WEIGHTS`` for itself, so that what is not in them "
    "begins otherwise than in the student.",
    unless="the student is on CUDA, ``KD.MODEL_CONFIG`` has its ``NUM_CLASSES``, and "
    "``MODEL.WEIGHTS`` is empty.",
)
def init_like_the_student(original: Callable[..., None], self: Any, cfg: Any) -> None:
    """Build them on the student's device, with its classes, and without ImageNet weights.

    The momentum teacher is a copy of the student; ``start_momentum_teacher`` renews it.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    with _teachers_like(cfg):
        original(self, cfg)


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


def start_momentum_teacher(network: Any) -> None:
    """Let the teacher of ``momentum_teacher`` begin with the student's values as they are now.

    That is to be done when the student has them from elsewhere: from a file, or in a run of several
    processes from the first of them. Each process draws numbers of its own.

    Args:
        network: a network of any architecture; without such a teacher nothing is done.
    """
    teacher = momentum_teacher(network)
    if teacher is not None:
        teacher.load_state_dict(network.state_dict(), strict=False)
