"""Folded networks compute what they were folded from, with fewer layers and statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.modeling.backbones import build_backbone
from torch import Tensor, nn

from metabin_plugin.deploy import fold_norms
from metabin_plugin.deploy.folding import InferenceNorm2d
from metabin_plugin.errors import NormError
from metabin_plugin.norm import BatchInstanceNorm2d, native
from tests.norm.oracle import bin_by_loops

IMAGES = torch.rand(2, 3, 64, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(2, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def trained(network: nn.Module, open_share: float = 0.5) -> nn.Module:
    """Random norms in float64 evaluation mode, with about that share of the gates below 1."""
    torch.manual_seed(2)
    for layer in network.double().modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.3, 0.1)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
        if isinstance(layer, BatchInstanceNorm2d):
            nn.init.uniform_(layer.instance_weight, 0.5, 1.5)
            nn.init.normal_(layer.instance_bias, 0.3, 0.1)
            gates = torch.rand(layer.num_features).double()
            is_open = torch.rand(layer.num_features) < open_share
            layer.gate.data = torch.where(is_open, gates, 1.0)
    return network.eval()


def backbone(name: str, depth: str, norm: str = "BIN", with_ibn: bool = False) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.WITH_IBN = with_ibn
    cfg.MODEL.BACKBONE.NAME = f"build_{name}_backbone"
    cfg.MODEL.BACKBONE.DEPTH = depth
    cfg.MODEL.BACKBONE.PRETRAIN = False
    cfg.MODEL.BACKBONE.NORM = norm
    return build_backbone(cfg)


def relative_difference(values: Tensor, expected: Tensor) -> float:
    return float((values - expected).abs().max() / expected.abs().max())


def of_type(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, kind)]


NETWORKS = [("mobilenetv2", "1.0x-paper"), ("resnet", "18x"), ("resnet", "50x"), ("osnet", "x1_0")]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("norm", ["IN", "DualNorm", "BNINHalf", "IBN"])
def test_instance_normalization_is_in_plain_operators(norm: str, dtype: torch.dtype) -> None:
    """Of every norm that has some, and of fastreid's own layers with some."""
    with_ibn = norm == "IBN"
    network = trained(backbone("resnet", "18x", "BN" if with_ibn else norm, with_ibn=with_ibn))
    for layer in of_type(network, nn.InstanceNorm2d):
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.normal_(layer.bias, 0.3, 0.1)
    folding = fold_norms(network.to(dtype))
    assert not of_type(folding.network, nn.InstanceNorm2d)
    images = IMAGES.to(dtype)
    tolerance = 1e-12 if dtype is torch.float64 else 1e-4
    assert relative_difference(folding.network(images), network(images)) < tolerance
    assert folding.open_channels > 0


class OwnInstanceNorm2d(nn.InstanceNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@torch.no_grad()
@pytest.mark.parametrize(
    "layer",
    [
        OwnInstanceNorm2d(3, affine=True),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        nn.InstanceNorm2d(3),
    ],
    ids=["own forward", "running statistics", "no affine map"],
)
def test_other_instance_normalization_is_left_as_it_is(layer: nn.InstanceNorm2d) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), layer).double().eval()
    if layer.running_mean is not None:
        layer.running_mean.normal_()
    folding = fold_norms(network)
    assert type(folding.network[1]) is type(layer) and folding.layers == 0
    torch.testing.assert_close(folding.network(MAPS), network(MAPS), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(("name", "depth"), NETWORKS)
def test_a_folded_network_computes_the_same(name: str, depth: str) -> None:
    network = trained(backbone(name, depth))
    before = copy.deepcopy(network.state_dict())
    folding = fold_norms(network, probe=IMAGES)
    expected = network(IMAGES)
    assert relative_difference(folding.network(IMAGES), expected) < 1e-10
    in_channels_last = IMAGES.to(memory_format=torch.channels_last)
    assert relative_difference(folding.network(in_channels_last), expected) < 1e-10
    assert folding.difference == relative_difference(folding.network(IMAGES), expected)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())

    gates = [layer.gate for layer in network.modules() if isinstance(layer, BatchInstanceNorm2d)]
    still_open = sum(int((gate < 1).sum()) for gate in gates)
    assert folding.layers == len(gates)
    assert folding.open_channels == still_open
    assert folding.folded_channels == sum(len(gate) for gate in gates) - still_open
    assert folding.affine_channels == folding.rounded_channels == 0
    assert not of_type(folding.network, nn.BatchNorm2d)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["BIN", "BN"])
def test_with_all_gates_at_1_no_normalization_is_left(norm: str) -> None:
    network = trained(backbone("resnet", "18x", norm), open_share=0)
    folding = fold_norms(network)
    assert relative_difference(folding.network(IMAGES), network(IMAGES)) < 1e-10
    assert folding.identities == folding.layers == 20
    assert folding.folded_channels == 4800
    assert not of_type(folding.network, nn.BatchNorm2d)
    assert not of_type(folding.network, InferenceNorm2d)


@torch.no_grad()
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("open_share", [0, 0.1, 0.5, 1])
@pytest.mark.parametrize("size", [(4, 3), (2, 1), (1, 1)])
def test_a_layer_alone_is_the_definition(
    size: tuple[int, int], open_share: float, memory_format: torch.memory_format
) -> None:
    layer = trained(BatchInstanceNorm2d(16), open_share)
    assert isinstance(layer, BatchInstanceNorm2d)
    if open_share == 0.1:
        assert 0 < int((layer.gate < 1).sum()) <= 4
    x = torch.randn(3, 16, *size).double().to(memory_format=memory_format)
    folding = fold_norms(layer)
    # A single pixel has no statistics of its own.
    gate = torch.ones(16).double() if size == (1, 1) else layer.gate
    affine = (layer.weight, layer.bias, layer.instance_weight, layer.instance_bias)
    running = (layer.running_mean, layer.running_var)
    assert isinstance(folding.network, InferenceNorm2d)
    torch.testing.assert_close(
        folding.network(x), bin_by_loops(x, gate, *affine, running), rtol=1e-12, atol=1e-12
    )
    assert folding.affine_channels + folding.open_channels == 16


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_folded_layer_keeps_the_dtype_and_computes_in_float32(dtype: torch.dtype) -> None:
    layer = trained(BatchInstanceNorm2d(8)).float()
    x = (100 + torch.randn(2, 8, 9, 7)).to(dtype)
    y = fold_norms(layer).network(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, layer(x.float()).to(dtype), rtol=2e-3, atol=1e-3)
    assert fold_norms(layer.to(dtype)).network(x).dtype == dtype


@torch.no_grad()
@pytest.mark.parametrize(
    ("still_open", "memory_format", "reduced"),
    [
        (0, torch.contiguous_format, None),
        (3, torch.contiguous_format, 3),
        (11, torch.contiguous_format, 12),
        (3, torch.channels_last, 3),
        (6, torch.channels_last, 12),
    ],
)
def test_a_few_open_channels_get_statistics_alone(
    still_open: int,
    memory_format: torch.memory_format,
    reduced: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = []

    def recording(needed: Tensor) -> tuple[Tensor, Tensor]:
        shapes.append(tuple(needed.shape))
        return statistics(needed)

    statistics = native.statistics
    monkeypatch.setattr(native, "statistics", recording)
    layer = trained(BatchInstanceNorm2d(12), open_share=0)
    assert isinstance(layer, BatchInstanceNorm2d)
    layer.gate[torch.randperm(12)[:still_open]] = 0.5
    x = torch.randn(2, 12, 5, 4).double().to(memory_format=memory_format)
    fold_norms(layer).network(x)
    assert shapes == [(2, reduced, 5, 4)] * (reduced is not None)


class Block(nn.Module):
    """A convolution and a norm, and what else is done with the convolution's output."""

    def __init__(self, then: Callable[[Block, Tensor, Tensor], Tensor], **options: Any) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, padding=1, **options)
        self.norm = BatchInstanceNorm2d(6)
        self.twin = nn.Conv2d(3, 6, 3, padding=1, **options)
        self.twin.weight = self.convolution.weight
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return self.then(self, self.norm(y), y)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"groups": 3}, {"stride": 2}, {"padding_mode": "reflect"}],
    ids=str,
)
def test_any_convolution_takes_the_norm(options: dict[str, Any]) -> None:
    network = trained(Block(lambda block, y, _: y, **options))
    folding = fold_norms(network)
    assert folding.folded_channels == int((network.norm.gate == 1).sum()) > 0
    assert folding.open_channels > 0
    assert relative_difference(folding.network(MAPS), network(MAPS)) < 1e-12


SHARED = {
    "output used twice": lambda block, y, convolved: y + convolved,
    "convolution called twice": lambda block, y, _: y + block.convolution(MAPS),
    "norm called twice": lambda block, y, _: block.norm(y),
    "weight read": lambda block, y, _: y * block.convolution.weight.sum(),
}


@torch.no_grad()
@pytest.mark.parametrize("then", SHARED.values(), ids=SHARED)
def test_a_convolution_that_others_need_stays_as_it_is(then: Any) -> None:
    network = trained(Block(then))
    folding = fold_norms(network)
    assert folding.folded_channels == 0
    assert folding.affine_channels == int((network.norm.gate == 1).sum())
    assert torch.equal(folding.network.convolution.weight, network.convolution.weight)
    assert relative_difference(folding.network(MAPS), network(MAPS)) < 1e-12


@torch.no_grad()
def test_a_convolution_that_shares_its_weight_leaves_the_other_alone() -> None:
    network = trained(Block(lambda block, y, _: y + block.twin(MAPS)))
    folding = fold_norms(network)
    assert folding.folded_channels > 0
    assert not any(parameter.requires_grad for parameter in folding.network.parameters())
    assert relative_difference(folding.network(MAPS), network(MAPS)) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", ["convolution", "norm"])
def test_a_hook_on_a_layer_is_not_lost(name: str, before: bool) -> None:
    network = trained(Block(lambda block, y, _: y))
    layer = network.get_submodule(name)
    if before:
        layer.register_forward_pre_hook(lambda layer, args: (2 * args[0],))
    else:
        layer.register_forward_hook(lambda layer, args, y: 2 * y)
    folding = fold_norms(network)
    assert folding.folded_channels == 0
    assert relative_difference(folding.network(MAPS), network(MAPS)) < 1e-12


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(lambda block, y, _: y), BatchInstanceNorm2d(6)])

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return x
        return self.blocks[1](self.blocks[0](x))


@torch.no_grad()
def test_a_network_that_cannot_be_traced_is_folded_inside_its_submodules(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "metabin_plugin")
    network = trained(Untraceable())
    folding = fold_norms(network)
    assert folding.folded_channels == int((network.blocks[0].norm.gate == 1).sum()) > 0
    assert folding.affine_channels == int((network.blocks[1].gate == 1).sum()) > 0
    assert relative_difference(folding.network(MAPS), network(MAPS)) < 1e-12
    first, second = caplog.messages
    assert first.startswith("Untraceable cannot be traced")
    assert second.endswith(": blocks.1")


class TwiceAsMuch(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@torch.no_grad()
@pytest.mark.parametrize(
    "norm", [TwiceAsMuch(6), nn.BatchNorm2d(6, track_running_stats=False)], ids=["own", "no stats"]
)
def test_layers_of_another_kind_are_left_alone(norm: nn.Module) -> None:
    network = trained(nn.Sequential(nn.Conv2d(3, 6, 1), norm))
    folding = fold_norms(network)
    assert folding.layers == folding.identities == 0
    assert torch.equal(folding.network(MAPS), network(MAPS))


@torch.no_grad()
def test_batch_norm_without_affine_is_folded() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, affine=False)).double().eval()
    network[1].running_mean.normal_()
    folding = fold_norms(network)
    assert folding.identities == 1
    assert relative_difference(folding.network(MAPS), network(MAPS)) < 1e-12


@torch.no_grad()
def test_the_tolerance_rounds_gates_and_says_how_many() -> None:
    network = trained(Block(lambda block, y, _: y))
    network.norm.gate.copy_(torch.tensor([1, 0.95, 0.9, 0.85, 0, 1]).double())
    folding = fold_norms(network, tolerance=0.1 + 1e-6, probe=MAPS)
    assert (folding.rounded_channels, folding.open_channels, folding.folded_channels) == (2, 2, 4)
    rounded = copy.deepcopy(network)
    rounded.norm.gate[1:3] = 1
    assert relative_difference(folding.network(MAPS), rounded(MAPS)) < 1e-12
    assert folding.difference == relative_difference(folding.network(MAPS), network(MAPS)) > 1e-3
    assert fold_norms(network, tolerance=1).open_channels == 0
    assert "2 rounded" in str(folding)


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, float("nan")])
def test_a_tolerance_outside_0_and_1_is_refused(tolerance: float) -> None:
    with pytest.raises(NormError, match=r"give a number in \[0, 1\]"):
        fold_norms(nn.BatchNorm2d(3), tolerance)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_folded_network_has_the_gradient_of_its_images(memory_format) -> None:
    layer = trained(BatchInstanceNorm2d(3))
    x = MAPS.to(memory_format=memory_format).requires_grad_()
    (expected,) = torch.autograd.grad(layer(x).pow(3).sum(), [x])
    (actual,) = torch.autograd.grad(fold_norms(layer).network(x).pow(3).sum(), [x])
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
