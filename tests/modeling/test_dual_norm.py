"""DualNorm and the other norms of Table 4 on whole backbones, through the config."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.layers import get_norm
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.meta_arch import build_model
from torch import Tensor, nn

from metabin_plugin.config.check import check_config
from metabin_plugin.deploy import fold_norms
from metabin_plugin.errors import ConfigError, NormError
from metabin_plugin.meta import held_call
from metabin_plugin.modeling import insert_dual_norm
from metabin_plugin.norm import HalfInstanceNorm2d, InstanceNorm2d
from tests.engine.starting import started
from tests.engine.tiny_data import tiny_config
from tests.modeling.random_networks import randomize, save

# Smaller images end in maps of two pixels, whose instance normalization lets gradients explode.
LARGER_IMAGES = ("INPUT.SIZE_TRAIN", "[128, 64]", "INPUT.SIZE_TEST", "[128, 64]")
CONFIG = Path(__file__).parents[2] / "projects" / "DualNorm" / "configs" / "DualNorm.yml"
IMAGES = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(0)).double()
MOBILENETV2 = [("mobilenetv2", depth) for depth in ("1.0x-paper", "1.0x", "1.4x-rounded")]
RESNETS = [("resnet", depth) for depth in ("18x", "50x")]


def backbone(name: str, depth: str, norm: str = "DualNorm", **options: Any) -> nn.Module:
    cfg = get_cfg()
    values = {"NAME": f"build_{name}_backbone", "DEPTH": depth, "NORM": norm, "PRETRAIN": False}
    cfg.MODEL.BACKBONE.update({**values, **options})
    return build_backbone(cfg)


def stem(network: nn.Module) -> nn.Module:
    """The first convolution."""
    return next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))


def of_type(network: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    return {name: m for name, m in network.named_modules() if isinstance(m, kind)}


def randomized(network: nn.Module) -> nn.Module:
    """Random norms, in float64 and evaluation mode."""
    randomize(network)
    for layer in of_type(network, InstanceNorm2d).values():
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.normal_(layer.bias)
    return network.double()


def instance_norm(x: Tensor, layer: nn.Module) -> Tensor:
    mean = x.mean(dim=(2, 3), keepdim=True)
    variance = (x - mean).square().mean(dim=(2, 3), keepdim=True)
    y = (x - mean) / (variance + 1e-5).sqrt()
    return layer.weight[:, None, None] * y + layer.bias[:, None, None]


def mobilenetv2_by_definition(plain: nn.Module, added: dict[str, nn.Module], x: Tensor) -> Tensor:
    """A plain network's layers in their order, with the added layers of the other one between."""
    stem = plain.features[0]
    x = stem[2](instance_norm(stem[0](x), added["features.0.1"]))
    for index in range(1, 18):
        block = plain.features[index]
        y = block.conv(x)
        same_size = block.conv[-1].num_features == x.shape[1] and y.shape[2:] == x.shape[2:]
        x = x + y if same_size else y
        # Stages of 1, 2, 3, 4 and 3 blocks; those of 3 and 1 come after.
        if index <= 13:
            x = instance_norm(x, added[f"features.{index}.instance_norm"])
    return (plain.features[18] if len(plain.features) == 19 else plain.conv)(x)


def resnet_by_definition(plain: nn.Module, added: dict[str, nn.Module], x: Tensor) -> Tensor:
    x = plain.maxpool(plain.bn1(plain.conv1(x)).relu())
    for stage in range(1, 5):
        blocks = getattr(plain, f"layer{stage}")
        for index, block in enumerate(blocks):
            y = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
            if hasattr(block, "conv3"):
                y = block.bn3(block.conv3(y.relu()))
            x = block.se(y) + (x if block.downsample is None else block.downsample(x))
            if stage < 4 and index == len(blocks) - 1:
                x = instance_norm(x, added[f"layer{stage}.{index}.instance_norm"])
            x = x.relu()
    return x


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "depth", "options"),
    [
        *((name, depth, {}) for name, depth in MOBILENETV2 + RESNETS),
        ("resnet", "50x", {"WITH_SE": True, "WITH_IBN": True}),
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_the_definition(
    name: str, depth: str, options: dict[str, bool], training: bool
) -> None:
    plain = randomized(backbone(name, depth, "BN", **options))
    network = randomized(insert_dual_norm(copy.deepcopy(plain)))
    network.load_state_dict(plain.state_dict(), strict=False)
    network.train(training)
    plain.train(training)
    added = {
        key: layer
        for key, layer in of_type(network, InstanceNorm2d).items()
        if not key.endswith(".IN")
    }
    assert len(added) == (14 if name == "mobilenetv2" else 3)
    by_definition = mobilenetv2_by_definition if name == "mobilenetv2" else resnet_by_definition
    y = network(IMAGES)
    expected = by_definition(plain, added, IMAGES)
    torch.testing.assert_close(y, expected, rtol=1e-8, atol=1e-9)

    incoming = torch.randn_like(y)
    affine = [parameter for layer in added.values() for parameter in layer.parameters()]
    ours = torch.autograd.grad(y, [stem(network).weight, *affine], incoming)
    theirs = torch.autograd.grad(expected, [stem(plain).weight, *affine], incoming)
    # Batch normalization behind a shift leaves rounding of its gradient, so that nothing smaller
    # than the largest one can be asked for.
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-10 * largest)


@pytest.mark.parametrize(("name", "depth"), MOBILENETV2 + RESNETS)
def test_names_of_existing_layers_stay(name: str, depth: str) -> None:
    plain = backbone(name, depth, "BN").state_dict()
    state = backbone(name, depth).state_dict()
    gone = [key for key in plain if key not in state]
    new = [key for key in state if key not in plain]
    assert all(key.endswith((".instance_norm.weight", ".instance_norm.bias")) for key in new)
    if name == "resnet":
        assert (len(new), gone) == (6, [])
    else:
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        assert (len(new), gone) == (26, [f"features.0.1.{buffer}" for buffer in buffers])


@pytest.mark.parametrize(("name", "depth"), [("mobilenetv2", "1.0x"), ("resnet", "18x")])
def test_imagenet_weights_load_first(name: str, depth: str, tmp_path: Path) -> None:
    weights = randomize(backbone(name, depth, "BN")).state_dict()
    path = save(weights, tmp_path / "weights.pth")
    for norm in ("DualNorm", "IN", "BNINHalf"):
        network = backbone(name, depth, norm, PRETRAIN=True, PRETRAIN_PATH=path)
        state = network.state_dict()
        assert set(network.state_dict()) & set(weights)
        for key, value in state.items():
            if not key.rpartition(".")[0].endswith("instance_norm"):
                assert torch.equal(value, weights[key]), (norm, key)


@pytest.mark.parametrize(
    ("norm", "kind", "name", "depth", "layers"),
    [
        ("IN", InstanceNorm2d, "mobilenetv2", "1.4x", 53),
        ("IN", InstanceNorm2d, "mobilenetv2", "1.0x", 52),
        ("IN", InstanceNorm2d, "resnet", "50x", 53),
        ("BNINHalf", HalfInstanceNorm2d, "mobilenetv2", "1.4x", 53),
        ("BNINHalf", HalfInstanceNorm2d, "resnet", "18x", 20),
        ("BNINHalf", HalfInstanceNorm2d, "osnet", "x1_0", 79),
    ],
)
def test_every_layer_is_converted(
    norm: str, kind: type[nn.Module], name: str, depth: str, layers: int
) -> None:
    network = backbone(name, depth, norm)
    assert len(of_type(network, kind)) == layers
    kinds = {type(m) for m in of_type(network, nn.BatchNorm2d).values()}
    assert kinds <= {HalfInstanceNorm2d}


def test_the_log_counts_the_layers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="metabin_plugin"):
        backbone("mobilenetv2", "1.0x-paper")
        backbone("mobilenetv2", "1.0x-paper", "BIN")
    assert "NORM DualNorm: 14 InstanceNorm2d layers, 52 BatchNorm2d layers" in caplog.text
    assert "NORM BIN: 53 BatchInstanceNorm2d layers, 17088 gates" in caplog.text


def test_another_backbone_is_refused_naming_those_it_knows() -> None:
    with pytest.raises(
        NormError, match=r"not defined for OSNet; choose .*mobilenetv2_backbone or build_resnet_b"
    ):
        backbone("osnet", "x1_0")


def test_blocks_outside_the_backbone_keep_batch_normalization() -> None:
    assert isinstance(get_norm("DualNorm", 4), nn.BatchNorm2d)


@torch.no_grad()
@pytest.mark.parametrize(("name", "depth"), [("mobilenetv2", "1.0x"), ("resnet", "18x")])
def test_a_folded_network_computes_the_same(name: str, depth: str) -> None:
    network = randomized(backbone(name, depth))
    folding = fold_norms(network)
    expected = network(IMAGES)
    scale = expected.abs().max()
    assert float((folding.network(IMAGES) - expected).abs().max() / scale) < 1e-10
    assert folding.affine_channels == 0
    instance_norms = of_type(network, InstanceNorm2d).values()
    assert folding.open_channels == sum(layer.num_features for layer in instance_norms)
    assert not of_type(folding.network, nn.InstanceNorm2d)


@pytest.mark.parametrize(("name", "depth"), [("mobilenetv2", "1.0x"), ("resnet", "18x")])
def test_a_held_call_changes_nothing(name: str, depth: str) -> None:
    network = randomized(backbone(name, depth)).train()
    before = copy.deepcopy(network.state_dict())
    y = held_call(network, IMAGES)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(y, network(IMAGES), rtol=1e-9, atol=1e-10)


def test_the_config_is_the_papers_system() -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.MODEL.BACKBONE.PRETRAIN = False
    cfg.MODEL.HEADS.NUM_CLASSES = 7
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.AMP.ENABLED = False
    check_config(cfg)
    network = build_model(cfg)
    assert len(of_type(network.backbone, InstanceNorm2d)) == 14
    # The feature normalization: without a shift that is trained.
    [normalization] = network.heads.bottleneck
    assert isinstance(normalization, nn.BatchNorm2d)
    assert not normalization.bias.requires_grad
    with torch.no_grad():
        normalization.running_mean.fill_(1)
        images = torch.rand(2, 3, 64, 32) * 255
        normalized = network.eval()({"images": images})
        pooled = network.heads.pool_layer(network.backbone(network.preprocess_image(images)))
    torch.testing.assert_close(normalized, normalization(pooled)[..., 0, 0])


def test_a_head_cannot_have_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.HEADS\.NORM is 'DualNorm'"):
        check_config(tiny_config(tmp_path, "MODEL.HEADS.NORM", "DualNorm"))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["IN", "BNINHalf", "DualNorm"])
def test_a_whole_run_trains_and_evaluates(norm: str, tmp_path: Path) -> None:
    cfg = tiny_config(
        tmp_path,
        *("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.BACKBONE.NORM", norm),
        *("METABIN.HOOKS", "()", "SOLVER.MAX_EPOCH", "1", "TEST.EVAL_PERIOD", "1"),
        *LARGER_IMAGES,
    )
    trainer = started(cfg)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    assert 0 <= trainer._last_eval_results["Rank-1"] <= 100
    moved = {
        name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])
    }
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert moved == trained
    assert (tmp_path / "out" / "model_final.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["IN", "BNINHalf", "DualNorm"])
def test_half_precision_trains(norm: str, tmp_path: Path) -> None:
    cfg = tiny_config(
        tmp_path,
        *("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.BACKBONE.NORM", norm),
        *("METABIN.HOOKS", "()", "SOLVER.AMP.ENABLED", "True", "TEST.EVAL_PERIOD", "0"),
        *("MODEL.BACKBONE.NAME", "build_mobilenetv2_backbone"),
        *("MODEL.BACKBONE.DEPTH", "1.0x-paper"),
        *("MODEL.BACKBONE.FEAT_DIM", "1280", "SOLVER.MAX_EPOCH", "1"),
        *LARGER_IMAGES,
    )
    trainer = started(cfg)
    with trainer.storage:
        trainer.run_step()
    assert all(p.grad.isfinite().all() for p in trainer.model.parameters() if p.grad is not None)
