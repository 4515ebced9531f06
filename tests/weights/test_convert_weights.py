"""tools/convert_weights.py: the authors' checkpoints, built from the golden recipe, and back."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import get_cfg
from fastreid.modeling.meta_arch import build_model
from fastreid.utils.checkpoint import Checkpointer
from torch import Tensor, nn

from metabin_plugin.cli.main import main
from metabin_plugin.errors import WeightsError
from metabin_plugin.weights.authors_checkpoint import AUTHORS_BACKBONES, authors_names, from_authors
from tests.engine import golden_recipe as recipe
from tests.engine.tiny_data import CONFIGS

PIXEL_MEAN = [123.675, 116.28, 103.53]


def authors_state(name: str) -> OrderedDict[str, Tensor]:
    """State dict of the recipe under the official names, in the order of the authors' modules."""
    return _drawn_state(name).copy()


@functools.cache
def _drawn_state(name: str) -> OrderedDict[str, Tensor]:
    description, _ = recipe.load(name)
    running = set(description["running_names"])
    state: OrderedDict[str, Tensor] = OrderedDict()
    state["pixel_mean"] = torch.tensor(PIXEL_MEAN).reshape(1, 3, 1, 1)
    state["pixel_std"] = torch.tensor([58.395, 57.12, 57.375]).reshape(1, 3, 1, 1)
    for index, official, role, shape, _ in description["param_table"]:
        seed = description["spec"]["seed"] + index
        state[official] = recipe.draw_parameter(role, shape, seed)
        norm = official.removesuffix(".bias")
        if f"{norm}.running_mean" in running:
            running -= {f"{norm}.running_mean", f"{norm}.running_var"}
            state[f"{norm}.running_mean"] = torch.zeros(shape, dtype=torch.float64)
            state[f"{norm}.running_var"] = torch.ones(shape, dtype=torch.float64)
            state[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    assert not running
    return state


def save(checkpoint: dict[str, Any], path: Path) -> Path:
    """Save as fastreid does, into an open file."""
    with path.open("wb") as file:
        torch.save(checkpoint, file)
    return path


def convert(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["metabin", "convert", *map(str, arguments)])
    main()


def network(name: str) -> nn.Module:
    """The MetaBIN network of a golden file, in double precision, with random weights."""
    spec = recipe.load(name)[0]["spec"]
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "MetaBIN-reference.yml"))
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.PRETRAIN = "cpu", False
    cfg.MODEL.HEADS.NUM_CLASSES = spec["nc"]
    if spec["bb"] == "resnet":
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.FEAT_DIM = "18x", 512
    torch.set_default_dtype(torch.float64)
    try:
        return build_model(cfg)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["step_mobilenet", "step_resnet18"])
def test_embeddings_are_the_authors_and_the_file_comes_back(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    description, arrays = recipe.load(name)
    original = save({"model": authors_state(name)}, tmp_path / "authors.pth")
    ours, back = tmp_path / "ours.pth", tmp_path / "back.pth"
    convert(monkeypatch, original, ours)
    printed = capsys.readouterr().out
    assert ("torch.nn.MaxPool2d(3, 2, padding=1)" in printed) == (name == "step_resnet18")

    model = network(name)
    Checkpointer(model).load(str(ours))
    if name == "step_resnet18":
        # fastreid's stem pools with ceil_mode instead of padding.
        model.backbone.maxpool = nn.MaxPool2d(3, 2, padding=1)
    images = recipe.draw_test_images(description["test_seed"], description["spec"])
    with torch.no_grad():
        embeddings = model.eval()({"images": images}).numpy()
    expected = arrays["eval_emb_before"]
    assert np.abs(embeddings - expected).max() < 1e-9 * np.abs(expected).max()

    convert(monkeypatch, ours, back, "--to", "authors")
    assert back.read_bytes() == original.read_bytes()


def test_only_the_optimizer_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = authors_state("step_resnet18")
    # What the parameters of a trained network share, and what state_dict() adds.
    flat = torch.cat([state["backbone.bn1.gate"], state["backbone.bn1.bat_n.weight"]])
    state["backbone.bn1.gate"], state["backbone.bn1.bat_n.weight"] = flat[:64], flat[64:]
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    whole = {"model": state, "optimizer": {"param_groups": [{"lr": 0.1}]}, "iteration": 5}
    source = save(whole, tmp_path / "authors.pth")
    lean = save({"model": state}, tmp_path / "lean.pth")
    ours, back = tmp_path / "ours.pth", tmp_path / "back.pth"
    convert(monkeypatch, source, ours)
    printed = capsys.readouterr().out
    assert "186 tensors, 20 normalization layers with 4800 gates" in printed
    assert "NAME build_resnet_backbone, DEPTH 18x, NORM BIN" in printed
    assert "dropped: optimizer, iteration\n" in printed
    assert f"MODEL.PIXEL_MEAN in training: {PIXEL_MEAN}" in printed
    assert torch.load(ours).keys() == {"model", "authors_pixel_buffers"}
    convert(monkeypatch, ours, back, "--to", "authors")
    assert back.read_bytes() == lean.read_bytes()


def test_a_checkpoint_of_the_plugin_goes_there_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = network("step_mobilenet").state_dict()
    source = save({"model": state, "epoch": 3}, tmp_path / "model_final.pth")
    there, back = tmp_path / "there.pth", tmp_path / "back.pth"
    convert(monkeypatch, source, there, "--to", "authors")
    assert "dropped: epoch\n" in capsys.readouterr().out
    official = torch.load(there)["model"]
    golden = authors_state("step_mobilenet")
    assert {name: value.shape for name, value in official.items()} == {
        name: value.shape for name, value in golden.items() if not name.startswith("pixel")
    }
    convert(monkeypatch, there, back)
    returned = torch.load(back)
    assert returned.keys() == {"model"}
    assert list(returned["model"]) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in returned["model"].items())


@pytest.mark.parametrize(("index", "name"), [(0, "step_mobilenet"), (2, "step_resnet18")])
def test_names_are_those_of_the_golden_tables(index: int, name: str) -> None:
    description, _ = recipe.load(name)
    rename = recipe.mobilenet_name if name == "step_mobilenet" else recipe.plugin_name
    tables = [row[1] for row in description["param_table"]] + description["running_names"]
    names = authors_names(AUTHORS_BACKBONES[index])
    assert {rename(official): official for official in tables} == {
        own: official for own, official in names.items() if "num_batches" not in own
    }


def test_resnet_50_has_the_golden_gates() -> None:
    counts = json.loads((recipe.GOLDEN / "counts.json").read_text())["resnet_50"]
    names = authors_names(AUTHORS_BACKBONES[4]).values()
    assert len([name for name in names if name.endswith(".gate")]) == counts["bin_layers"]
    assert "backbone.layer4.2.bn3.ins_n.bias" in names


def unknown(state: dict[str, Tensor]) -> None:
    state["backbone.layer4.1.se.weight"] = torch.ones(2, 3)


def missing(state: dict[str, Tensor]) -> None:
    del state["backbone.layer2.0.downsample.bn.gate"]


def reshaped(state: dict[str, Tensor]) -> None:
    state["backbone.layer3.0.conv1.weight"] = torch.ones(256, 64, 3, 3)


def instance_statistics(state: dict[str, Tensor]) -> None:
    state["backbone.bn1.ins_n.running_mean"] = torch.zeros(64)


def without_classifier(state: dict[str, Tensor]) -> None:
    del state["heads.classifier_fc.weight"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (unknown, "it has backbone.layer4.1.se.weight (2, 3), which the network has not"),
        (missing, "it has no backbone.layer2.0.downsample.bn.gate (128,)"),
        (
            reshaped,
            "backbone.layer3.0.conv1.weight is (256, 64, 3, 3) there, (256, 128, 3, 3) here",
        ),
        (instance_statistics, "it has backbone.bn1.ins_n.running_mean (64,), which"),
        (without_classifier, "it has no heads.classifier_fc.weight"),
    ],
)
def test_other_networks_are_refused_with_the_first_difference(spoil: Any, words: str) -> None:
    state = authors_state("step_resnet18")
    spoil(state)
    start = r"a\.pth is of none of the authors' networks \(nearest: .*DEPTH 18x\): "
    with pytest.raises(WeightsError, match=start + re.escape(words)):
        from_authors({"model": state}, "a.pth")


def test_wrong_directions_and_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = authors_state("step_resnet18")
    source = save({"model": state}, tmp_path / "authors.pth")
    bare = save(dict(state), tmp_path / "bare.pth")
    output = tmp_path / "output.pth"
    for arguments, words in [
        ((source, output, "--to", "authors"), "it has no backbone.bn1.weight (64,)"),
        ((bare, output), "is not a checkpoint"),
        ((tmp_path / "absent.pth", output), "cannot be read"),
        ((source, tmp_path / "absent" / "output.pth"), "cannot be written"),
        # An optimizer's state, which is left out, would be nowhere any more.
        ((source, tmp_path / "." / source.name), "is a file that is read; give another path"),
    ]:
        with pytest.raises(SystemExit):
            convert(monkeypatch, *arguments)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert words in line
    assert not output.exists()
