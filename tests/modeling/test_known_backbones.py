"""The list of backbones: all that fastreid has, each with what its feature map has."""

from __future__ import annotations

import inspect
import re

import pytest
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import BACKBONE_REGISTRY

from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling.backbones import BACKBONES, FAMILIES, FLAGS
from tests.engine.tiny_data import CONFIGS

VIT = "build_vit_backbone"
SMALLEST = {b.name: b for b in reversed(BACKBONES)}


def source(name: str) -> str:
    """Of fastreid's builder, and of what it calls with the depth."""
    builder = inspect.unwrap(BACKBONE_REGISTRY.get(name))
    module = inspect.getmodule(builder)
    assert module is not None
    functions = [f for f in vars(module).values() if inspect.isfunction(f)]
    classes = [c for c in vars(module).values() if inspect.isclass(c)]
    own = [part for part in (*functions, *classes) if part.__module__ == module.__name__]
    return "".join(inspect.getsource(inspect.unwrap(part)) for part in own)


def test_every_backbone_of_fastreid_but_vit_is_listed() -> None:
    # Other tests register backbones of their own.
    fastreids = {
        name
        for name, builder in BACKBONE_REGISTRY._obj_map.items()
        if inspect.unwrap(builder).__module__.startswith("fastreid.")
    }
    assert {*FAMILIES, VIT} == fastreids


@pytest.mark.parametrize("name", FAMILIES)
def test_every_depth_of_fastreid_is_listed(name: str) -> None:
    quoted = re.findall(
        r"""["']((?:x\d_\d+)|(?:[\d.]+[xy])|(?:[AB]\d(?:g\d)?)|(?:b\d)|"""
        r"""(?:Large|Small))["']\s*(?::|\)?:$)""",
        source(name),
        re.M,
    )
    assert quoted and set(quoted) <= FAMILIES[name].depths.keys()
    assert {flag for flag in FLAGS if flag in source(name)} == set(FAMILIES[name].flags)


def config(name: str, *options: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "BN-demo.yml"))
    cfg.merge_from_list([*SMALLEST[name].options(), "MODEL.BACKBONE.PRETRAIN", "False"])
    cfg.merge_from_list(["MODEL.HEADS.NUM_CLASSES", "3", "INPUT.SIZE_TRAIN", "[64, 32]", *options])
    return cfg


@pytest.mark.parametrize("name", FAMILIES)
def test_another_depth_is_refused_with_those_that_there_are(name: str) -> None:
    depths = ", ".join(FAMILIES[name].depths)
    words = rf"DEPTH is '19x', which {name} does not have; give one of {re.escape(depths)}$"
    with pytest.raises(ConfigError, match=words):
        MetaBINTrainer.build_model(config(name, "MODEL.BACKBONE.DEPTH", "19x"))


@pytest.mark.parametrize("name", FAMILIES)
def test_another_feature_width_is_refused_with_the_right_one(name: str) -> None:
    width = FAMILIES[name].depths[SMALLEST[name].depth]
    words = rf"FEAT_DIM is 100, but {name} with DEPTH .* gives {width} features; set it to that"
    with pytest.raises(ConfigError, match=words):
        MetaBINTrainer.build_model(config(name, "MODEL.BACKBONE.FEAT_DIM", "100"))
