"""RepVGG's form for inference computes what the training form does, or is refused as a whole."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.backbones.repvgg import RepVGGBlock
from torch import Tensor, nn

from metabin_plugin.deploy import fold_norms
from metabin_plugin.deploy.export import fold_network
from metabin_plugin.deploy.folding import InferenceNorm2d
from metabin_plugin.deploy.repvgg import merge_folded_blocks
from metabin_plugin.errors import ExportError
from metabin_plugin.norm import (
    BatchInstanceNorm2d,
    InstanceNorm2d,
    synchronize_norms,
)

IMAGES = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)).double()


def repvgg(norm: str = "BIN", depth: str = "A0", tolerance: float = 0.0) -> nn.Module:
    """A network with random affine maps and statistics, in float64 and evaluation mode."""
    cfg = get_cfg()
    cfg.METABIN.FOLD_TOLERANCE = tolerance
    values = {"NAME": "build_repvgg_backbone", "DEPTH": depth, "NORM": norm, "PRETRAIN": False}
    cfg.MODEL.BACKBONE.update(values)
    network = build_backbone(cfg).double()
    torch.manual_seed(1)
    for layer in network.modules():
        if getattr(layer, "running_mean", None) is not None:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


def blocks(network: nn.Module) -> dict[str, RepVGGBlock]:
    return {name: m for name, m in network.named_modules() if isinstance(m, RepVGGBlock)}


def gates_of(network: nn.Module, name: str) -> Tensor:
    return network.get_submodule(name).gate.data


def relative_difference(values: Tensor, expected: Tensor) -> float:
    return float((values - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("norm", ["BIN", "BN", "syncBN", "GhostBN", "FrozenBN"])
def test_the_deployed_network_computes_the_same(norm: str) -> None:
    network = repvgg(norm)
    expected = network(IMAGES)
    network.deploy(True)
    assert relative_difference(network(IMAGES), expected) < 1e-9
    assert len(list(network.modules())) < 100
    assert {name.rpartition(".")[2] for name, _ in network.named_parameters()} == {
        "fused_weight",
        "fused_bias",
    }


@torch.no_grad()
def test_groups_and_synchronized_statistics_are_deployed() -> None:
    network = repvgg("BN", "B1g4")
    expected = network(IMAGES)
    synchronize_norms(network)
    network.deploy(True)
    assert relative_difference(network(IMAGES), expected) < 1e-9


@torch.no_grad()
def test_a_layer_without_a_trained_affine_map_is_deployed() -> None:
    network = repvgg("BN")
    network.stage1[1].rbr_identity = plain = nn.BatchNorm2d(48, affine=False).double().eval()
    plain.running_mean.normal_()
    expected = network(IMAGES)
    network.deploy(True)
    assert relative_difference(network(IMAGES), expected) < 1e-9


@pytest.mark.parametrize("tolerance", [0.0, 0.01])
def test_an_open_gate_refuses_the_whole_network(tolerance: float) -> None:
    network = repvgg(tolerance=tolerance)
    # In the last block: all others could be deployed.
    gates_of(network, "stage4.0.rbr_1x1.bn")[:3] = torch.tensor([0.5, 0.98, 0.75])
    gates_of(network, "stage1.1.rbr_identity")[:] = 1 - tolerance / 2
    before = copy.deepcopy(network.state_dict())
    below = "more than 0.01 below 1" if tolerance else "below 1"
    sentence = (
        f"3 of the 1280 gates of stage4.0.rbr_1x1.bn are {below}; METABIN.FOLD_TOLERANCE 0.5 "
        "would take all gates for 1, and `metabin export` exports the network as it is"
    )
    with pytest.raises(ExportError, match=re.escape(sentence)):
        network.deploy(True)
    assert not any(block.deploying for block in blocks(network).values())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert torch.isfinite(network(IMAGES)).all()


@torch.no_grad()
def test_the_tolerance_takes_gates_for_1() -> None:
    network = repvgg(tolerance=0.1)
    expected = network(IMAGES)
    for layer in network.modules():
        if isinstance(layer, BatchInstanceNorm2d):
            layer.gate.uniform_(0.91, 1)
    network.deploy(True)
    assert relative_difference(network(IMAGES), expected) < 1e-9


@pytest.mark.parametrize("norm", ["IN", "BNINHalf", "GN", "MyBatchNorm"])
def test_what_is_no_constant_map_is_refused_by_its_name(norm: str) -> None:
    # Depth A1, for GN's 32 groups divide its channels.
    network = repvgg("BN" if norm == "MyBatchNorm" else norm, "A1")
    name, kind = "stage0.rbr_dense.bn", type(network.stage0.rbr_dense.bn).__name__
    if norm == "MyBatchNorm":

        class MyBatchNorm(nn.BatchNorm2d):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x).abs()

        network.stage2[1].rbr_identity = MyBatchNorm(128)
        name, kind = "stage2.1.rbr_identity", "MyBatchNorm"
    with pytest.raises(ExportError, match=rf"for {re.escape(name)} is a {kind}.*metabin export"):
        network.deploy(True)
    assert not any(block.deploying for block in blocks(network).values())


def test_a_half_normalized_layer_is_refused_with_any_tolerance_below_1() -> None:
    with pytest.raises(ExportError, match=r"HalfInstanceNorm2d, which needs the image's stat"):
        repvgg("BNINHalf", tolerance=0.9).deploy(True)


@torch.no_grad()
def test_deploying_again_changes_nothing_and_taking_back_is_refused() -> None:
    network = repvgg()
    network.deploy(False)
    network.deploy(True)
    expected = network(IMAGES)
    network.deploy(True)
    with pytest.raises(ExportError, match=r"deploy\(False\) cannot give 22 RepVGG blocks"):
        network.deploy(False)
    assert torch.equal(network(IMAGES), expected)


@torch.no_grad()
def test_a_block_alone_is_deployed_or_refused() -> None:
    network = repvgg()
    expected = network(IMAGES)
    network.stage1.deploy(True)
    network.stage2[0].deploy(True)
    assert sum(block.deploying for block in blocks(network).values()) == 3
    gates_of(network, "stage2.1.rbr_dense.bn")[0] = 0.25
    with pytest.raises(ExportError, match=r"for 1 of the 96 gates of rbr_dense\.bn are below 1"):
        network.stage2[1].deploy(True)
    gates_of(network, "stage2.1.rbr_dense.bn")[0] = 1
    network.deploy(True)
    assert relative_difference(network(IMAGES), expected) < 1e-9


@torch.no_grad()
def test_a_folded_network_has_one_convolution_for_each_block_without_open_gates() -> None:
    network = repvgg()
    gates_of(network, "stage1.1.rbr_identity")[:5] = 0.5
    gates_of(network, "stage3.0.rbr_dense.bn")[:7] = 0.25
    expected = network(IMAGES)
    folding = fold_network(network, (64, 32), tolerance=0)
    assert relative_difference(folding.network.double()(IMAGES), expected) < 1e-6
    whole = [name for name, block in blocks(folding.network).items() if not block.deploying]
    assert whole == ["stage1.1", "stage3.0"]
    assert len([m for m in folding.network.modules() if isinstance(m, nn.Conv2d)]) == 4
    assert len([m for m in folding.network.modules() if isinstance(m, InferenceNorm2d)]) == 2
    assert not any(parameter.requires_grad for parameter in folding.network.parameters())

    gates = sum(layer.gate.numel() for layer in network.modules() if hasattr(layer, "gate"))
    # Of the identity branch beside the five open channels the rest stays a map.
    assert (folding.open_channels, folding.affine_channels) == (12, 43)
    assert folding.folded_channels == gates - 12 - 43
    assert (folding.layers, folding.identities) == (61, 59)


@torch.no_grad()
def test_the_tolerance_of_folding_merges_blocks_too() -> None:
    network = repvgg()
    gates_of(network, "stage1.1.rbr_identity")[:5] = 0.99
    folding = fold_network(network, (64, 32), tolerance=0.02)
    assert all(block.deploying for block in blocks(folding.network).values())
    assert folding.difference is not None and 1e-6 < folding.difference < 0.1


def test_other_layers_of_a_folded_block_are_left_alone() -> None:
    network = fold_norms(repvgg("BN")).network
    network.stage1[0].rbr_dense.conv.register_forward_hook(lambda *_: None)
    network.stage1[1].rbr_identity = InstanceNorm2d(48)
    merged = merge_folded_blocks(network)
    whole = [name for name, block in blocks(network).items() if not block.deploying]
    assert whole == ["stage1.0", "stage1.1"]
    assert merged.blocks == 20
    assert merge_folded_blocks(network).blocks == 0
