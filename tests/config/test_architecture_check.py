"""Configs of fastreid's own meta-architectures that cannot work are refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.meta_arch import build_model
from torch import nn

from metabin_plugin.config.check import _rows
from metabin_plugin.engine import check_config
from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling.backbones import BACKBONES, FAMILIES, FLAGS
from tests.engine.tiny_data import tiny_config

MGN = (
    *("MODEL.META_ARCHITECTURE", "MGN", "MODEL.BACKBONE.DEPTH", "50x"),
    *("MODEL.BACKBONE.FEAT_DIM", "2048", "MODEL.HEADS.EMBEDDING_DIM", "32"),
    *("INPUT.SIZE_TRAIN", "[96, 48]", "INPUT.SIZE_TEST", "[96, 48]"),
)
MOCO = ("MODEL.META_ARCHITECTURE", "MoCo")
DISTILLER = ("MODEL.META_ARCHITECTURE", "Distiller")
VIT = ("MODEL.BACKBONE.NAME", "build_vit_backbone")
BASELINE = ("MODEL.META_ARCHITECTURE", "Baseline")


@pytest.fixture
def config(tmp_path: Path):
    def make(*options: str) -> CfgNode:
        return tiny_config(tmp_path, "METABIN.HOOKS", "()", *options)

    return make


@pytest.mark.parametrize(
    "options",
    [
        *(MGN, MOCO, (*DISTILLER, "KD.EMA.ENABLED", "True"), (*VIT, *BASELINE)),
        (*MOCO, "MODEL.HEADS.EMBEDDING_DIM", "16", "MODEL.HEADS.NECK_FEAT", "after"),
        # Without iterations nothing is frozen.
        ("MODEL.FREEZE_LAYERS", '["heads"]'),
        ("MODEL.FREEZE_LAYERS", '["backbone", "heads.bottleneck"]', "SOLVER.FREEZE_ITERS", "2"),
    ],
    ids=[
        "MGN",
        "MoCo",
        "Distiller",
        "ViT",
        "MoCo of embeddings",
        "frozen for no time",
        "frozen parts",
    ],
)
def test_what_can_work_passes(options: tuple[str, ...], config) -> None:
    norm = "BN" if "build_vit_backbone" in options else "BIN"
    check_config(config(*options, "MODEL.BACKBONE.NORM", norm))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            (*MGN, "MODEL.BACKBONE.NAME", "build_resnext_backbone"),
            r"resnext_backbone', .*set it to build_resnet_backbone$",
        ),
        (
            (*MGN, "MODEL.BACKBONE.DEPTH", "18x"),
            r"^MODEL\.BACKBONE\.DEPTH is '18x', .* to 50x or 101x$",
        ),
        ((*MGN, "MODEL.BACKBONE.FEAT_DIM", "1280"), r"FEAT_DIM is 1280, .* 2048$"),
        (
            (*MGN, "INPUT.SIZE_TEST", "[64, 32]"),
            r"SIZE_TEST has a height of 64, .* 4 rows .* 67 or",
        ),
        (
            (*MGN, "INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[16, 16]"),
            r"INPUT\.CROP\.SIZE has a height of 16",
        ),
        ((*MGN, "MODEL.LOSSES.NAME", '("CircleLoss",)'), r"among CrossEntropyLoss, TripletLoss$"),
        *(
            (
                (*architecture, "MODEL.FREEZE_LAYERS", '["heads"]', "SOLVER.FREEZE_ITERS", "2"),
                r"^MODEL\.FREEZE_LAYERS has 'heads', .*; name parts of it",
            )
            for architecture in ((), BASELINE, ("MODEL.META_ARCHITECTURE", "BaselineWithLosses"))
        ),
        ((*MOCO, "MODEL.LOSSES.NAME", "()"), r"MODEL\.LOSSES\.NAME is empty"),
        ((*MOCO, "MODEL.QUEUE_SIZE", "11"), r"QUEUE_SIZE is 11, .* the 12 images"),
        ((*MOCO, "MODEL.QUEUE_SIZE", "0"), r"QUEUE_SIZE is 0"),
        (
            (*MOCO, "MODEL.HEADS.EMBEDDING_DIM", "16"),
            r"NECK_FEAT is 'before', .* the 16 values of .* set NECK_FEAT after",
        ),
        (DISTILLER, r"there is no teacher; name its config in KD\.MODEL_CONFIG"),
        (
            (*DISTILLER, "KD.MODEL_CONFIG", '["a.yml"]'),
            r"names 1 teachers and KD\.MODEL_WEIGHTS 0",
        ),
        (
            (*DISTILLER, "KD.MODEL_CONFIG", '["a.yml"]', "KD.MODEL_WEIGHTS", '["a.pth"]'),
            r"KD\.MODEL_CONFIG has 'a\.yml', which is not a file; .* Baseline",
        ),
        (VIT, r"MODEL\.BACKBONE\.NORM is 'BIN', but MODEL\.BACKBONE\.NAME is 'build_vit"),
        ((*VIT, *BASELINE, "MODEL.BACKBONE.NORM", "DualNorm"), r"NORM is 'DualNorm', but"),
        ((*VIT, "MODEL.BACKBONE.NORM", "BN"), r"MODEL\.META_ARCHITECTURE is 'MetaBIN', but .*_vit"),
    ],
)
def test_what_cannot_work_is_refused(options: tuple[str, ...], sentence: str, config) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        check_config(config(*options))
    assert "\n" not in str(caught.value)


def test_vit_is_refused_before_its_weights_are_looked_for(config, tmp_path: Path) -> None:
    from metabin_plugin.engine import MetaBINTrainer

    absent = ("MODEL.BACKBONE.PRETRAIN", "True", "MODEL.BACKBONE.PRETRAIN_PATH", "absent.pth")
    with pytest.raises(ConfigError, match="transformer without batch normalization"):
        MetaBINTrainer.build_model(config(*VIT, *absent))


@torch.no_grad()
def test_mgn_takes_the_heights_that_it_is_said_to_take(config) -> None:
    cfg = config(*MGN, "MODEL.HEADS.NUM_CLASSES", "2", "MODEL.BACKBONE.NORM", "BN")
    with torch.device("meta"):
        network = build_model_on_meta(cfg)
    # Rows are of 16 pixels.
    for height in range(17, 17 + 5 * 16):
        cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = [height, 32]
        features = network.backbone(torch.empty(1, 3, height, 32, device="meta"))
        assert features.shape[2] == _rows(height)
        stripes = len(torch.chunk(features, 3, dim=2))
        try:
            check_config(cfg)
        except ConfigError:
            assert stripes < 3 and height < 67
        else:
            assert stripes == 3


def build_model_on_meta(cfg: CfgNode) -> nn.Module:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    return build_model(cfg).eval()


@pytest.mark.parametrize("name", [*FAMILIES, "build_vit_backbone"])
def test_flags_that_change_nothing_are_refused(name: str, config) -> None:
    known = {"build_vit_backbone": {"small": 768}} | {n: f.depths for n, f in FAMILIES.items()}
    base = config(*BASELINE, "MODEL.BACKBONE.NORM", "BN")
    for depth in known[name]:
        for flag in FLAGS:
            cfg = base.clone()
            backbone = cfg.MODEL.BACKBONE
            backbone.NAME, backbone.DEPTH, backbone[flag] = name, depth, True
            if any(b.name == name and b.depth == depth and flag in b.flags for b in BACKBONES):
                check_config(cfg)
                continue
            with pytest.raises(ConfigError, match=rf"{flag} is True, which changes nothing in"):
                check_config(cfg)


def test_a_backbone_of_ones_own_may_read_any_flag(config, monkeypatch) -> None:
    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "build_own_backbone", lambda _cfg: None)
    for flag in FLAGS:
        options = ("MODEL.BACKBONE.NAME", "build_own_backbone", f"MODEL.BACKBONE.{flag}", "True")
        check_config(config(*options))
