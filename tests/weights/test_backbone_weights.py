"""Files of weights for each of fastreid's backbones, and downloads that do not succeed."""

from __future__ import annotations

import pickle
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gdown
import pytest
import torch
import torchvision
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import build_backbone
from torch import Tensor

from metabin_plugin.errors import WeightsError
from metabin_plugin.modeling.backbones import BACKBONES, FAMILIES, RESNET, KnownBackbone
from tests.modeling.random_networks import randomize, save

OSNET = "build_osnet_backbone"
RESNEXT = "build_resnext_backbone"
SMALLEST = {b.name: b for b in reversed(BACKBONES) if not b.flags}

# How others wrap the state dict, what they put before its names, and their classifier's.
FILES = {
    "build_regnet_backbone": ("model_state", "", "head.fc"),
    "build_effnet_backbone": ("model_state", "", "head.fc"),
    "build_shufflenetv2_backbone": ("state_dict", "module.", "classifier.0"),
    "build_repvgg_backbone": ("", "", "linear"),
    "build_resnest_backbone": ("", "", "fc"),
    OSNET: ("", "module.", "classifier"),
    RESNEXT: ("model", "module.encoder.", "fc"),
    "build_mobilenetv3_backbone": ("", "", "classifier.0"),
}


def config(backbone: KnownBackbone, path: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(backbone.options())
    node = cfg.MODEL.BACKBONE
    node.NORM, node.PRETRAIN, node.PRETRAIN_PATH = "BN", True, path
    return cfg


def random_state(backbone: KnownBackbone) -> dict[str, Tensor]:
    cfg = config(backbone, "")
    cfg.MODEL.BACKBONE.PRETRAIN = False
    return randomize(build_backbone(cfg)).state_dict()


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_its_usual_form_loads_completely(name: str, tmp_path: Path) -> None:
    wrapper, prefix, classifier = FILES[name]
    state = random_state(SMALLEST[name])
    file: dict[str, Any] = {f"{prefix}{key}": value for key, value in state.items()}
    file[f"{prefix}{classifier}.weight"] = torch.ones(3, 3)
    content = {"epoch": 3, wrapper: file} if wrapper else file
    network = build_backbone(config(SMALLEST[name], save(content, tmp_path / "weights.pth")))
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_one_of_its_names_is_refused(name: str, tmp_path: Path) -> None:
    state = random_state(SMALLEST[name])
    absent = next(key for key in reversed(state) if key.endswith("weight") and key[:5] != "conv.")
    del state[absent]
    path = save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=rf"does not fit this \w+: it has no {absent} "):
        build_backbone(config(SMALLEST[name], path))


def test_torchvisions_mobilenetv3_loads_but_for_its_last_layer(tmp_path: Path) -> None:
    theirs = randomize(torchvision.models.mobilenet_v3_small())
    path = save(theirs.state_dict(), tmp_path / "weights.pth")
    network = build_backbone(config(SMALLEST["build_mobilenetv3_backbone"], path))
    own, expected = network.features.state_dict(), theirs.features.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in own.items())


@pytest.mark.parametrize(
    "name", ["build_shufflenetv2_backbone", "build_mobilenetv3_backbone", "build_repvgg_backbone"]
)
def test_a_file_saved_on_a_gpu_loads_without_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = random_state(SMALLEST[name])
    with monkeypatch.context() as gpu:
        gpu.setattr("torch.serialization.location_tag", lambda _storage: "cuda:0")
        path = save(state, tmp_path / "weights.pth")
    network = build_backbone(config(SMALLEST[name], path))
    assert all(value.device.type == "cpu" for value in network.state_dict().values())


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (KnownBackbone(OSNET, "x0_5", with_ibn=True), "fastreid has none of osnet_ibn_x0_5 to"),
        (KnownBackbone(RESNET, "50x", with_se=True), "fastreid has none of se_50x to download"),
        (KnownBackbone(RESNEXT, "50x"), "fastreid has none of 50x to download"),
        (KnownBackbone(RESNEXT, "152x"), "fastreid has none of 152x to download"),
        (KnownBackbone("build_regnet_backbone", "200y"), "fastreid has none of 200y to download"),
        (KnownBackbone("build_repvgg_backbone", "A0"), "No such file"),
        (KnownBackbone("build_shufflenetv2_backbone", "0.5x"), "No such file"),
        (KnownBackbone("build_mobilenetv2_backbone", "0.5x"), "there is no file ''"),
    ],
    ids=str,
)
def test_an_empty_path_with_nothing_to_download_is_one_sentence(
    backbone: KnownBackbone, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    sentence = rf"PRETRAIN_PATH.*{words}.*(set MODEL\.BACKBONE|or set).*PRETRAIN False$"
    with pytest.raises(WeightsError, match=sentence):
        build_backbone(config(backbone, ""))


def _raise(error: Exception) -> Callable[..., None]:
    def download(*_args: object, **_options: object) -> None:
        raise error

    return download


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route to the host"),
        gdown.exceptions.FileURLRetrievalError("no route to the host"),
        urllib.error.HTTPError("https://x.org/y", 404, "no route to the host", None, None),  # type: ignore[arg-type]
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("name", sorted({*FILES, RESNET}))
def test_a_download_that_fails_is_one_sentence(
    name: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("gdown.download", _raise(error))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", _raise(error))
    monkeypatch.setattr(
        "fastreid.modeling.backbones.mobilenetv3.load_state_dict_from_url", _raise(error)
    )
    depths = {"build_regnet_backbone": "800x", RESNEXT: "101x"}
    backbone = replace(SMALLEST[name], depth=depths.get(name, SMALLEST[name].depth))
    if name == RESNEXT:
        backbone = replace(backbone, with_ibn=True)
    words = (
        "No such file"
        if name in ("build_repvgg_backbone", "build_shufflenetv2_backbone")
        else ("no route to the host")
    )
    with pytest.raises(WeightsError, match=rf"PRETRAIN_PATH '' gives {name} no weights: .*{words}"):
        build_backbone(config(backbone, ""))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError('invalid hash value (expected "528c", got "0")'), "invalid hash value"),
        (RuntimeError("PytorchStreamReader failed reading zip archive"), "PytorchStreamReader"),
        (pickle.UnpicklingError("pickle data was truncated"), "the file is damaged"),
        (EOFError("Ran out of input"), "the file is damaged"),
    ],
)
def test_a_download_that_is_damaged_is_one_sentence(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", _raise(error))
    with pytest.raises(WeightsError, match=rf"build_resnest_backbone no weights: {words}"):
        build_backbone(config(SMALLEST["build_resnest_backbone"], ""))


def test_an_error_of_another_kind_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("out of memory")
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", _raise(error))
    with pytest.raises(RuntimeError, match="out of memory"):
        build_backbone(config(SMALLEST["build_resnest_backbone"], ""))


def test_each_family_is_tested() -> None:
    assert {*FILES, RESNET, "build_mobilenetv2_backbone"} == FAMILIES.keys()
