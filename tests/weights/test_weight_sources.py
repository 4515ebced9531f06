"""torchvision's weights by their name, without a network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import build_backbone
from torch import hub

from metabin_plugin.errors import WeightsError


def config(path: str) -> CfgNode:
    cfg = get_cfg()
    backbone = cfg.MODEL.BACKBONE
    backbone.DEPTH, backbone.NORM = "18x", "BN"
    backbone.PRETRAIN, backbone.PRETRAIN_PATH = True, path
    return cfg


def test_weights_are_downloaded_once_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torchvision.models.resnet18().state_dict()
    calls = []

    def download(url: str, file: str, checksum: str, progress: bool) -> None:
        calls.append((url, checksum))
        torch.save(state, file)

    monkeypatch.setattr(hub, "download_url_to_file", download)
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path / "hub"))
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    cfg = config("torchvision:ResNet18_Weights.IMAGENET1K_V1")
    for _ in range(2):
        assert torch.equal(build_backbone(cfg).conv1.weight, state["conv1.weight"])
    name = weights.url.rpartition("/")[2]
    assert calls == [(weights.url, name.removesuffix(".pth").rpartition("-")[2])]
    assert cfg.MODEL.BACKBONE.PRETRAIN_PATH == "torchvision:ResNet18_Weights.IMAGENET1K_V1"


@pytest.mark.parametrize(
    "name", ["ResNet18_Weights.V9", "NoNetwork_Weights.DEFAULT", "resnet18", ""]
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=r"PRETRAIN_PATH is 'torchvision:.*MobileNet_V2_Weights"):
        build_backbone(config(f"torchvision:{name}"))


def test_a_failed_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = tmp_path / "served.pth"
    torch.save({"weight": torch.ones(1)}, served)
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    assert not hashlib.sha256(served.read_bytes()).hexdigest().startswith("f37072fd")
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path / "hub"))
    real = hub.download_url_to_file
    monkeypatch.setattr(
        hub, "download_url_to_file", lambda url, *rest, **options: real(served.as_uri(), *rest)
    )
    with pytest.raises(
        WeightsError, match=r"resnet18-f37072fd\.pth cannot be downloaded \(invalid"
    ):
        build_backbone(config(f"torchvision:{weights}"))
    assert not list((tmp_path / "hub").rglob("*.pth"))
