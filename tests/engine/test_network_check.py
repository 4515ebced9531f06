"""Backbones and heads that do not fit together, and trying a backbone without a trace."""

from __future__ import annotations

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from torch import Tensor, nn

from metabin_plugin.engine import MetaBINTrainer, read_config
from metabin_plugin.engine.network_options import _try
from metabin_plugin.errors import ConfigError
from tests.engine.tiny_data import CONFIGS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["MODEL.BACKBONE.DEPTH", "19x"], r"MODEL\.BACKBONE\.DEPTH is '19x', which build_resnet"),
        (["MODEL.BACKBONE.FEAT_DIM", "2048"], r"FEAT_DIM is 2048, but .* 18x gives 512 features"),
        (
            ["MODEL.BACKBONE.FEAT_DIM", "2048", "INPUT.CROP.ENABLED", "True"],
            r"FEAT_DIM is 2048, but .* 18x gives 512 features",
        ),
        (
            ["MODEL.BACKBONE.NAME", "build_vit_backbone", "MODEL.BACKBONE.DEPTH", "small"],
            r"FEAT_DIM is 512, but build_vit_backbone .* gives \d+ features",
        ),
        (
            ["MODEL.BACKBONE.NAME", "build_mobilenetv2_backbone", "MODEL.BACKBONE.DEPTH", "2x"],
            r"MODEL\.BACKBONE\.DEPTH is '2x'",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(options: list[str], words: str) -> None:
    resnet = ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.DEPTH", "18x"]
    common = ["MODEL.BACKBONE.FEAT_DIM", "512", "MODEL.HEADS.NUM_CLASSES", "3"]
    common += ["MODEL.BACKBONE.NORM", "BN", "INPUT.SIZE_TRAIN", "[32, 16]"]
    cfg = read_config(str(CONFIGS / "BN-demo.yml"), [*resnet, *common, *options])
    with pytest.raises(ConfigError, match=words):
        MetaBINTrainer.build_model(cfg)


VIT = {
    "MODEL.BACKBONE.NAME": "build_vit_backbone",
    "MODEL.BACKBONE.DEPTH": "small",
    "MODEL.BACKBONE.FEAT_DIM": "768",
    "MODEL.BACKBONE.NORM": "BN",
    "MODEL.HEADS.NUM_CLASSES": "3",
    "INPUT.SIZE_TRAIN": "[32, 16]",
}


@pytest.mark.parametrize(
    ("size", "is_taken"), [("[32, 16]", True), ("[48, 16]", False), ("[16, 32]", False)]
)
def test_a_size_that_evaluation_would_fail_on_is_refused_before_training(
    size: str, is_taken: bool
) -> None:
    pairs = {**VIT, "INPUT.SIZE_TEST": size}
    options = [part for pair in pairs.items() for part in pair]
    cfg = read_config(str(CONFIGS / "BN-demo.yml"), options)
    if is_taken:
        MetaBINTrainer.build_model(cfg)
        return
    with pytest.raises(ConfigError, match=r"INPUT\.SIZE_TEST is \[.*, on which build_vit"):
        MetaBINTrainer.build_model(cfg)


@BACKBONE_REGISTRY.register()
def build_backbone_of_two_maps(cfg: CfgNode) -> nn.Module:
    """A backbone that a head of its own would be needed for."""

    class TwoMaps(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    return TwoMaps()


@BACKBONE_REGISTRY.register()
def build_backbone_that_pools(cfg: CfgNode) -> nn.Module:
    """A backbone whose features are no map."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@REID_HEADS_REGISTRY.register()
class HeadOfOneClass(nn.Module):
    """A head of one's own, which cannot take a map."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor:
        return self.layer(features)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"MODEL.HEADS.POOL_LAYER": "Identity"},
            r"POOL_LAYER is 'Identity', which makes 512x4x2 of what build_resnet_backbone gives "
            r"for INPUT\.SIZE_TRAIN \[64, 32\] \(512x4x2\), .* choose GlobalAvgPool",
        ),
        ({"MODEL.HEADS.POOL_LAYER": "Flatten"}, r"POOL_LAYER is 'Flatten', .* 4096x1x1 of"),
        (
            {"MODEL.HEADS.POOL_LAYER": "Flatten", "MODEL.HEADS.WITH_BNNECK": "False"},
            r"POOL_LAYER is 'Flatten'",
        ),
        # Of one pixel both are right.
        ({"MODEL.HEADS.POOL_LAYER": "Identity", "INPUT.SIZE_TRAIN": "[16, 16]"}, ""),
        ({"MODEL.HEADS.POOL_LAYER": "Flatten", "INPUT.SIZE_TRAIN": "[16, 16]"}, ""),
        (
            {"MODEL.BACKBONE.NAME": "build_backbone_of_two_maps"},
            r"HEADS\.NAME is 'EmbeddingHead', which takes one feature map .* \(no tensor\); let",
        ),
        (
            {"MODEL.BACKBONE.NAME": "build_backbone_that_pools", "MODEL.BACKBONE.FEAT_DIM": "3"},
            r"HEADS\.NAME is 'EmbeddingHead', which takes one feature map .* \(3\); let",
        ),
        (
            {"MODEL.HEADS.NAME": "HeadOfOneClass"},
            r"HEADS\.NAME is 'HeadOfOneClass', which .* fails on .* \(512x4x2\): mat1 and mat2",
        ),
    ],
)
def test_a_head_that_cannot_take_the_features_is_refused(
    changes: dict[str, str], words: str
) -> None:
    pairs = {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.BACKBONE.DEPTH": "18x",
        "MODEL.BACKBONE.FEAT_DIM": "512",
        "MODEL.BACKBONE.NORM": "BN",
        "MODEL.HEADS.NUM_CLASSES": "3",
        "INPUT.SIZE_TRAIN": "[64, 32]",
        **changes,
    }
    options = [part for pair in pairs.items() for part in pair]
    options += ["INPUT.SIZE_TEST", pairs["INPUT.SIZE_TRAIN"]]
    cfg = read_config(str(CONFIGS / "BN-demo.yml"), options)
    if not words:
        MetaBINTrainer.build_model(cfg)
        return
    with pytest.raises(ConfigError, match=words) as caught:
        MetaBINTrainer.build_model(cfg)
    assert "\n" not in str(caught.value)


def test_without_resizing_no_size_is_tried() -> None:
    resnet = ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.DEPTH", "18x"]
    options = [*resnet, "MODEL.BACKBONE.FEAT_DIM", "512", "MODEL.HEADS.NUM_CLASSES", "3"]
    options += ["INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[32, 16]"]
    options += ["MODEL.BACKBONE.NORM", "BN", "INPUT.SIZE_TEST", "[0, 0]"]
    MetaBINTrainer.build_model(read_config(str(CONFIGS / "BN-demo.yml"), options))


def test_trying_a_backbone_leaves_no_trace() -> None:
    backbone = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm2d(3))
    backbone[1].eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    generator = torch.get_rng_state()
    _try(backbone, torch.ones(1, 3, 4, 4))
    assert [module.training for module in backbone.modules()] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
