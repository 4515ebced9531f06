"""The paper's MobileNetV2: counts, shapes, and the files of weights that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.layers import batch_norm
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.backbones.mobilenet import MobileNetV2 as StandardMobileNetV2
from torch import nn

from metabin_plugin.errors import ConfigError, WeightsError
from metabin_plugin.modeling import MobileNetV2
from metabin_plugin.norm import convert_norm, count_gates, gate_parameters
from metabin_plugin.weights.pretrained import load_imagenet_weights
from tests.modeling.random_networks import randomize, save

COUNTS = json.loads((Path(__file__).parents[1] / "golden" / "counts.json").read_text())


@pytest.mark.parametrize(("width", "key"), [(1.4, "mobilenet_14"), (1.0, "mobilenet_10")])
def test_layers_gates_and_parameters_are_the_papers(width: float, key: str) -> None:
    network = MobileNetV2(width)
    plain = sum(parameter.numel() for parameter in network.parameters())
    convert_norm(network, "BIN")
    counts = COUNTS[key]
    assert count_gates(network) == (counts["bin_layers"], counts["gate_params"])
    sizes = [gate.numel() for gate in gate_parameters(network).values()]
    assert sizes == counts["gate_sizes"]
    # The count of the reference has both affine maps and the gate.
    assert plain + 3 * counts["gate_params"] == counts["params_backbone"]
    assert network.out_channels == counts["feature_dim"]


@pytest.mark.parametrize(("last_stride", "size"), [(1, (4, 2)), (2, (2, 1))])
def test_last_stride_is_honoured(last_stride: int, size: tuple[int, int]) -> None:
    network = MobileNetV2(1.0, last_stride).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 64, 32)).shape[2:] == size


NORMS = {
    "syncBN": batch_norm.SyncBatchNorm,
    "GhostBN": batch_norm.GhostBatchNorm,
    "FrozenBN": batch_norm.FrozenBatchNorm,
}


def built(depth: str, norm: str) -> nn.Module:
    """A backbone without values."""
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_mobilenetv2_backbone"
    cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.NORM = depth, norm
    cfg.MODEL.BACKBONE.PRETRAIN = False
    with torch.device("meta"):
        return build_backbone(cfg)


@pytest.mark.parametrize("depth", ["1.4x", "1.0x", "1.4x-rounded"])
def test_every_norm_layer_is_the_one_of_the_config(depth: str) -> None:
    layers = [name for name, m in built(depth, "BN").named_modules() if hasattr(m, "running_mean")]
    assert len(layers) >= 52
    for norm, kind in NORMS.items():
        network = built(depth, norm)
        assert {type(network.get_submodule(name)) for name in layers} == {kind}
    frozen = built(depth, "FrozenBN")
    assert not any(p.dim() == 1 for p in frozen.parameters())


@pytest.mark.parametrize("depth", ["1.0x-paper", "1.0x"])
def test_frozen_norm_layers_take_the_weights_of_the_file(depth: str, tmp_path: Path) -> None:
    """They count no batches, unlike those whose weights the file has."""
    source = MobileNetV2(1.0) if depth == "1.0x-paper" else StandardMobileNetV2("BN", 1.0)
    path = save(randomize(source).state_dict(), tmp_path / "weights.pth")
    maps = []
    for norm in ("BN", "FrozenBN"):
        cfg = get_cfg()
        cfg.MODEL.BACKBONE.NAME = "build_mobilenetv2_backbone"
        cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.NORM = depth, norm
        cfg.MODEL.BACKBONE.PRETRAIN, cfg.MODEL.BACKBONE.PRETRAIN_PATH = True, str(path)
        network = build_backbone(cfg).train(norm == "FrozenBN")
        with torch.no_grad():
            maps.append(network(torch.linspace(-1, 1, 3 * 64 * 32).view(1, 3, 64, 32)))
    assert maps[0].any()
    torch.testing.assert_close(maps[1], maps[0])


@pytest.mark.parametrize("depth", ["1.4x", "1.0x"])
def test_group_normalization_that_does_not_go_into_a_layer_is_refused(depth: str) -> None:
    with pytest.raises(ConfigError, match=r"'GN', which has 32 groups .* has \d+; choose another"):
        built(depth, "GN")


def test_the_paper_variants_own_weights_load(tmp_path: Path) -> None:
    state = randomize(MobileNetV2(1.0)).state_dict()
    network = MobileNetV2(1.0)
    load_imagenet_weights(network, save(state, tmp_path / "weights.pth"))
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_another_width_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    path = save(MobileNetV2(1.0).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(
        WeightsError, match=r"features\.0\.0\.weight is \(32, 3, 3, 3\) there, \(44, 3, 3, 3\) here"
    ):
        load_imagenet_weights(MobileNetV2(1.4), path)


def test_a_missing_and_an_extra_layer_are_refused(tmp_path: Path) -> None:
    state = MobileNetV2(1.0).state_dict()
    state.pop("features.18.1.bias")
    with pytest.raises(WeightsError, match=r"has no features\.18\.1\.bias"):
        load_imagenet_weights(MobileNetV2(1.0), save(state, tmp_path / "short.pth"))
    state = MobileNetV2(1.0).state_dict()
    state.pop("features.1.conv.0.weight")
    with pytest.raises(WeightsError, match=r"has no features\.1\.conv\.0\.weight"):
        load_imagenet_weights(MobileNetV2(1.0), save(state, tmp_path / "part.pth"))
    state = {**MobileNetV2(1.0).state_dict(), "features.19.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"has features\.19\.weight"):
        load_imagenet_weights(MobileNetV2(1.0), save(state, tmp_path / "long.pth"))


class Payload:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


def test_unreadable_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("no weights")
    files = [
        str(tmp_path / "absent.pth"),
        str(tmp_path / "empty.pth"),
        str(tmp_path / "text.pth"),
        save([1, 2], tmp_path / "list.pth"),
        save({"a": Payload()}, tmp_path / "code.pth"),
    ]
    for path in files:
        with pytest.raises(WeightsError, match=r"MODEL\.BACKBONE\.PRETRAIN_PATH"):
            load_imagenet_weights(MobileNetV2(1.0), path)
    assert "executed" not in capsys.readouterr().out
