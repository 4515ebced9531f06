"""The backbones: a table of all that batch-instance normalization can go into, and added depths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.layers import batch_norm
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.backbones.mobilenet import MobileNetV2 as StandardMobileNetV2
from torch import nn

from metabin_plugin.compat.patching import patch
from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling.mobilenetv2 import MobileNetV2
from metabin_plugin.norm.network import substitute

MOBILENETV2 = "build_mobilenetv2_backbone"
RESNET = "build_resnet_backbone"
FLAGS = ("WITH_IBN", "WITH_SE", "WITH_NL")


@dataclass(frozen=True)
class KnownBackbone:
    """Values of ``MODEL.BACKBONE``.

    Attributes:
        name: ``NAME``.
        depth: ``DEPTH``.
        with_ibn: ``WITH_IBN``.
        with_se: ``WITH_SE``.
        with_nl: ``WITH_NL``.
    """

    name: str
    depth: str
    with_ibn: bool = False
    with_se: bool = False
    with_nl: bool = False

    def __str__(self) -> str:
        flags = "".join(f", {flag} True" for flag in self.flags)
        return f"NAME {self.name}, DEPTH {self.depth}{flags}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Those of ``FLAGS`` that are True."""
        values = (self.with_ibn, self.with_se, self.with_nl)
        return tuple(flag for flag, value in zip(FLAGS, values, strict=True) if value)

    @property
    def features(self) -> int:
        """``FEAT_DIM``: channels of its feature map."""
        return FAMILIES[self.name].depths[self.depth]

    def options(self) -> list[str]:
        """KEY VALUE pairs of a config."""
        values = {"NAME": self.name, "DEPTH": self.depth, "FEAT_DIM": str(self.features)}
        values |= {flag: str(flag in self.flags) for flag in FLAGS}
        return [word for key, value in values.items() for word in (f"MODEL.BACKBONE.{key}", value)]

    def build(self) -> nn.Module:
        """The backbone with batch normalization, on the meta device: shapes without values."""
        cfg: CfgNode = get_cfg()
        backbone = cfg.MODEL.BACKBONE
        cfg.merge_from_list(self.options())
        backbone.NORM, backbone.PRETRAIN = "BN", False
        with torch.device("meta"):
            return BACKBONE_REGISTRY.get(self.name)(cfg)


@dataclass(frozen=True)
class Family:
    """What one builder of ``BACKBONE_REGISTRY`` makes.

    Attributes:
        title: its usual name.
        depths: values of ``DEPTH``, smallest network first, to channels of the feature map.
        flags: those of ``FLAGS`` that it reads.
        early: parts at the ends of its first stages, where feature maps still show style.
        without_nl: depths that have no non-local layers, whatever ``WITH_NL`` is.
    """

    title: str
    depths: Mapping[str, int]
    early: tuple[str, ...]
    flags: tuple[str, ...] = ()
    without_nl: tuple[str, ...] = ()

    def flags_of(self, depth: str) -> list[str]:
        """The flags that change its network of this depth."""
        return [flag for flag in self.flags if flag != "WITH_NL" or depth not in self.without_nl]

    def settings(self, depth: str) -> Iterator[dict[str, bool]]:
        """Each combination of flags that makes another network, all of them off first."""
        flags = self.flags_of(depth)
        for values in product((False, True), repeat=len(flags)):
            yield {flag.lower(): value for flag, value in zip(flags, values, strict=True)}


FAMILIES: Mapping[str, Family] = {
    MOBILENETV2: Family(
        "MobileNetV2",
        {
            **dict.fromkeys(("0.1x", "0.25x", "0.35x", "0.5x", "0.75x", "1.0x-paper"), 1280),
            **{"1.0x": 1280, "1.4x": 1792, "1.4x-rounded": 1792},
        },
        ("features.3", "features.6"),
    ),
    "build_mobilenetv3_backbone": Family(
        "MobileNetV3", {"Small": 1024, "Large": 1280}, ("features.1", "features.3")
    ),
    "build_shufflenetv2_backbone": Family(
        "ShuffleNetV2",
        {"0.5x": 1024, "1.0x": 1024, "1.5x": 1024, "2.0x": 2048},
        ("features.3", "features.11"),
    ),
    "build_osnet_backbone": Family(
        "OSNet",
        {"x0_25": 128, "x0_5": 256, "x0_75": 384, "x1_0": 512},
        ("conv2", "conv3"),
        ("WITH_IBN",),
    ),
    RESNET: Family(
        "ResNet",
        {"18x": 512, "34x": 512, "50x": 2048, "101x": 2048},
        ("layer1", "layer2"),
        FLAGS,
        without_nl=("18x", "34x"),
    ),
    "build_resnext_backbone": Family(
        "ResNeXt",
        {"50x": 2048, "101x": 2048, "152x": 2048},
        ("layer1", "layer2"),
        ("WITH_IBN", "WITH_NL"),
        without_nl=("152x",),
    ),
    "build_resnest_backbone": Family(
        "ResNeSt",
        {"50x": 2048, "101x": 2048, "200x": 2048, "269x": 2048},
        ("layer1", "layer2"),
    ),
    "build_regnet_backbone": Family(
        "RegNet",
        {
            **{"200x": 368, "200y": 368, "400x": 384, "400y": 440, "800x": 672, "800y": 768},
            **{"1600x": 912, "1600y": 888, "3200x": 1008, "3200y": 1512},
            **{"4000x": 1360, "4000y": 1088, "6400x": 1624, "6400y": 1296},
        },
        ("s1", "s2"),
    ),
    "build_effnet_backbone": Family(
        "EfficientNet",
        {"b0": 1280, "b1": 1280, "b2": 1408, "b3": 1536, "b4": 1792, "b5": 2048},
        ("s2", "s3"),
    ),
    "build_repvgg_backbone": Family(
        "RepVGG",
        {
            **{"A0": 1280, "A1": 1280, "A2": 1408, "B0": 1280},
            **dict.fromkeys(("B1g4", "B1g2", "B1"), 2048),
            **dict.fromkeys(("B2g4", "B2g2", "B2", "B3g4", "B3g2", "B3"), 2560),
        },
        ("stage1", "stage2"),
    ),
}
BACKBONES = tuple(
    KnownBackbone(name, depth, **flags)
    for name, family in FAMILIES.items()
    for depth in family.depths
    for flags in family.settings(depth)
)


def is_known(name: str, depth: str) -> bool:
    """Whether ``NAME`` is one of ``FAMILIES``, and has this ``DEPTH``."""
    return name in FAMILIES and depth in FAMILIES[name].depths


# MODEL.BACKBONE.DEPTH of the paper's variant, to its channel multiplier.
PAPER_WIDTHS = {"1.4x": 1.4, "1.0x-paper": 1.0}
# The standard network at 1.4 (channels rounded to multiples of 8), which fastreid does not offer.
ROUNDED_DEPTH = "1.4x-rounded"


@patch(
    "fastreid.modeling.backbones.mobilenet:build_mobilenetv2_backbone",
    fault="It has no depth 1.4, none of the paper's variant, and no ``LAST_STRIDE``. Whatever "
    "``MODEL.BACKBONE.NORM`` is, the last norm layer of a block is batch normalization.",
    unless="``DEPTH`` is one of fastreid's, and the norm is BN.",
)
def build_any_mobilenetv2(original: Callable[[CfgNode], nn.Module], cfg: CfgNode) -> nn.Module:
    """Offer three more values of ``MODEL.BACKBONE.DEPTH``, and give all layers the norm.

    ``1.4x`` and ``1.0x-paper`` are the paper's variant and honour ``LAST_STRIDE``;
    ``1.4x-rounded`` continues fastreid's own depths.
    """
    backbone = cfg.MODEL.BACKBONE
    if backbone.DEPTH in PAPER_WIDTHS:
        network: nn.Module = MobileNetV2(PAPER_WIDTHS[backbone.DEPTH], backbone.LAST_STRIDE)
    elif backbone.DEPTH == ROUNDED_DEPTH:
        network = StandardMobileNetV2(backbone.NORM, 1.4)
    else:
        network = original(cfg)
    if backbone.NORM != "BN":
        # They have no weights yet: those are loaded into the whole network.
        left = [layer for layer in network.modules() if type(layer) is nn.BatchNorm2d]
        norms: dict[nn.Module, nn.Module] = {
            layer: batch_norm.get_norm(backbone.NORM, layer.num_features) for layer in left
        }
        substitute(network, norms)
    return network


def early_parts(
    backbone: nn.Module, cfg: CfgNode, names: Sequence[str], key: str
) -> list[nn.Module]:
    """Parts of a backbone behind which feature maps still show style.

    Args:
        backbone: the backbone of the config.
        cfg: the config.
        names: of the parts; none for the ends of the first stages of a backbone of ``FAMILIES``.
        key: the config key of the names, for the sentences.

    Raises:
        ConfigError: the backbone has no such part, or no names are known for it.
    """
    parts = dict(backbone.named_modules())
    if not names:
        family = FAMILIES.get(cfg.MODEL.BACKBONE.NAME)
        names = family.early if family else ()
        key = f"{key} is empty, and its default for {cfg.MODEL.BACKBONE.NAME}"
    missing = [name for name in names if name not in parts]
    if missing or not names:
        known = ", ".join(name for name in parts if name and "." not in name) or "no part"
        raise ConfigError(
            f"{key} has {missing[0]!r}, which the backbone lacks; "
            f"name early ones of its parts ({known}, and theirs with a dot between)"
            if missing
            else f"{key} is nothing; name early parts of the backbone ({known}, and theirs with a "
            "dot between)"
        )
    return [parts[name] for name in names]
