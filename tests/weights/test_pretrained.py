"""MODEL.BACKBONE.PRETRAIN_PATH, for any of fastreid's backbones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import BACKBONE_REGISTRY, build_backbone
from fastreid.modeling.backbones.build import build_backbone as build_backbone_at_its_source
from torch import nn

from metabin_plugin.errors import WeightsError
from metabin_plugin.weights.pretrained import read_pretrained
from tests.weights.weight_file_samples import save_malicious

# Small networks, each with a builder of its own.
BACKBONES = {
    "build_resnet_backbone": "18x",
    "build_osnet_backbone": "x0_25",
    "build_mobilenetv2_backbone": "0.1x",
    "build_mobilenetv3_backbone": "Small",
    "build_shufflenetv2_backbone": "0.5x",
    "build_repvgg_backbone": "A0",
    "build_resnest_backbone": "50x",
    "build_resnext_backbone": "50x",
    "build_regnet_backbone": "200x",
    "build_effnet_backbone": "b0",
}


def config(name: str, path: str) -> CfgNode:
    cfg = get_cfg()
    backbone = cfg.MODEL.BACKBONE
    backbone.NAME, backbone.DEPTH, backbone.NORM = name, BACKBONES[name], "BN"
    backbone.PRETRAIN, backbone.PRETRAIN_PATH = True, path
    return cfg


def resnet_state() -> dict[str, torch.Tensor]:
    cfg = config("build_resnet_backbone", "")
    cfg.MODEL.BACKBONE.PRETRAIN = False
    return build_backbone(cfg).state_dict()


def test_every_way_to_build_a_backbone_is_the_checked_one() -> None:
    assert build_backbone is build_backbone_at_its_source


@pytest.mark.parametrize("name", BACKBONES)
def test_bad_files_are_refused_by_every_backbone(tmp_path: Path, name: str) -> None:
    torch.save({"weight": torch.ones(100)}, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-100])
    (tmp_path / "empty.pth").touch()
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    torch.save({"epoch": 3, "model": {"lr": 0.1}}, tmp_path / "numbers.pth")
    torch.save({3: torch.ones(1)}, tmp_path / "unnamed.pth")
    save_malicious(tmp_path / "evil.pth", tmp_path / "marker")
    save_malicious(tmp_path / "old_evil.pth", tmp_path / "marker", legacy=True)
    for file, words in [
        ("absent.pth", "there is no file"),
        ("cut.pth", r"cut\.pth is damaged"),
        ("empty.pth", r"empty\.pth is empty"),
        ("list.pth", "does not hold a state dict"),
        ("numbers.pth", "does not hold a state dict"),
        ("unnamed.pth", "does not hold a state dict"),
        ("evil.pth", r"posix\.system"),
        ("old_evil.pth", r"posix\.system"),
    ]:
        with pytest.raises(WeightsError, match=rf"MODEL\.BACKBONE\.PRETRAIN_PATH: .*{words}"):
            build_backbone(config(name, str(tmp_path / file)))
    assert not (tmp_path / "marker").exists()


def test_good_weights_load_with_numpy_values_beside_them(tmp_path: Path) -> None:
    state = {key: value + 1 for key, value in resnet_state().items()}
    path = str(tmp_path / "weights.pth")
    torch.save({**state, "accuracy": np.float64(0.7)}, path)
    network = build_backbone(config("build_resnet_backbone", path))
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_a_state_dict_may_lie_where_a_backbone_looks_for_it(tmp_path: Path) -> None:
    path = str(tmp_path / "weights.pth")
    torch.save({"epoch": 3, "state_dict": {"weight": torch.ones(1)}}, path)
    assert "state_dict" in read_pretrained(path)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (lambda content: content["model"], r"gives own_backbone no weights: .* has no 'model'"),
        (nn.Linear(2, 2).load_state_dict, r"gives own_backbone no weights: Missing key"),
    ],
)
def test_what_a_backbone_of_ones_own_finds_wrong_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    load: Callable[[dict[str, torch.Tensor]], object],
    words: str,
) -> None:
    monkeypatch.setitem(
        BACKBONE_REGISTRY._obj_map,
        "own_backbone",
        lambda cfg: load(torch.load(cfg.MODEL.BACKBONE.PRETRAIN_PATH)),
    )
    cfg = config("build_repvgg_backbone", str(tmp_path / "weights.pth"))
    torch.save({"layer": torch.ones(3, 3)}, cfg.MODEL.BACKBONE.PRETRAIN_PATH)
    cfg.MODEL.BACKBONE.NAME = "own_backbone"
    with pytest.raises(WeightsError, match=words):
        build_backbone(cfg)


def test_a_download_that_fails_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_args: object, **_options: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("gdown.download", download)
    with pytest.raises(WeightsError, match=r"PRETRAIN_PATH '' gives .* no weights: no route"):
        build_backbone(config("build_resnet_backbone", ""))


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    path = str(tmp_path / "weights.pth")
    torch.save(nn.Linear(1, 1).state_dict(), path)
    cfg = config("build_resnet_backbone", path)
    cfg.MODEL.BACKBONE.DEPTH = "19x"
    for there in (path, ""):
        cfg.MODEL.BACKBONE.PRETRAIN_PATH = there
        with pytest.raises(KeyError, match="19x"):
            build_backbone(cfg)
