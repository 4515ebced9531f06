from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.func import functional_call

from metabin_plugin.norm import BatchInstanceNorm2d, batch_instance_norm, clip_gates_
from tests.norm.oracle import bin_by_loops

INSTANCE_HALF = {"gate", "instance_weight", "instance_bias"}


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def trained_bn(channels: int = 3, **options) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(channels, **options).double()
    nn.init.normal_(bn.weight, 1.0)
    nn.init.normal_(bn.bias)
    bn(torch.randn(4, channels, 3, 2).double() * 2 + 1)
    return bn


def layer_from(bn: nn.BatchNorm2d, gate: float | None = None) -> BatchInstanceNorm2d:
    layer = BatchInstanceNorm2d(bn.num_features, bn.eps, bn.momentum).double()
    layer.load_state_dict(bn.state_dict(), strict=False)
    layer.track_running_stats = bn.track_running_stats
    nn.init.normal_(layer.instance_weight)
    nn.init.normal_(layer.instance_bias)
    if gate is not None:
        nn.init.constant_(layer.gate, gate)
    return layer.train(bn.training)


def parameters_of(layer: BatchInstanceNorm2d) -> tuple[torch.Tensor, ...]:
    return layer.gate, layer.weight, layer.bias, layer.instance_weight, layer.instance_bias


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("mode", ["train", "eval", "hold"])
def test_all_gates_at_1_is_batch_normalization(mode: str, momentum: float | None) -> None:
    bn = trained_bn(momentum=momentum)
    layer = layer_from(bn)
    for module in (bn, layer):
        module.train(mode != "eval")
        module.track_running_stats = mode != "hold"
    for _ in range(3):
        x = torch.randn(4, 3, 5, 2).double() + 2
        xs = [x.clone().requires_grad_() for _ in range(2)]
        ys = bn(xs[0]), layer(xs[1])
        torch.testing.assert_close(ys[1], ys[0], rtol=1e-12, atol=1e-12)
        incoming = torch.randn_like(x)
        ours = torch.autograd.grad(ys[1], (xs[1], layer.weight, layer.bias), incoming)
        theirs = torch.autograd.grad(ys[0], (xs[0], bn.weight, bn.bias), incoming)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    for name, value in bn.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[name], value, rtol=1e-12, atol=1e-12)


def test_all_gates_at_1_is_batch_normalization_in_float32() -> None:
    bn = trained_bn().float()
    layer = layer_from(bn).float()
    x = torch.randn(8, 3, 16, 8) * 2 + 3
    torch.testing.assert_close(layer(x), bn(x), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("training", [True, False])
def test_mixes_both_halves(training: bool) -> None:
    layer = layer_from(trained_bn(), gate=0.3).train(training)
    x = torch.randn(3, 3, 4, 2).double()
    running = None if training else (layer.running_mean.clone(), layer.running_var.clone())
    expected = bin_by_loops(x, *parameters_of(layer), running=running)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_hold_uses_batch_statistics_and_leaves_the_running_ones() -> None:
    layer = layer_from(trained_bn(), gate=0.5)
    layer.track_running_stats = False
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(3, 3, 4, 2).double()
    expected = bin_by_loops(x, *parameters_of(layer))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_hold_keeps_the_running_statistics_even_of_a_broken_batch() -> None:
    layer = layer_from(trained_bn(), gate=0.5)
    layer.track_running_stats = False
    before = copy.deepcopy(layer.state_dict())
    assert layer(torch.full((3, 3, 4, 2), torch.nan).double()).isnan().all()
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_without_running_statistics_evaluation_uses_the_batch() -> None:
    layer = layer_from(trained_bn(), gate=0.5).eval()
    layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    x = torch.randn(3, 3, 4, 2).double()
    expected = bin_by_loops(x, *parameters_of(layer))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_one_pixel_is_the_bn_layer_whatever_the_gate(training: bool) -> None:
    bn = trained_bn().train(training)
    layer = layer_from(bn, gate=0.25)
    x = torch.randn(4, 3, 1, 1).double()
    torch.testing.assert_close(layer(x), bn(x), rtol=0, atol=0)
    torch.testing.assert_close(layer.running_var, bn.running_var, rtol=0, atol=0)


def test_one_value_per_channel_raises_in_training_as_bn_does() -> None:
    layer = layer_from(trained_bn())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 3, 1, 1).double())


def test_gates_start_at_batch_normalization() -> None:
    layer = BatchInstanceNorm2d(4)
    assert set(dict(layer.named_parameters())) == {"weight", "bias", *INSTANCE_HALF}
    assert all(p.shape == (4,) for p in layer.parameters())
    assert layer.gate.tolist() == [1.0] * 4
    assert (layer.eps, layer.momentum) == (1e-5, 0.1)
    assert isinstance(layer, nn.BatchNorm2d)


def test_reset_parameters_resets_both_halves() -> None:
    layer = layer_from(trained_bn(), gate=0.5)
    layer.reset_parameters()
    torch.testing.assert_close(
        layer.state_dict(), BatchInstanceNorm2d(3).double().state_dict(), rtol=0, atol=0
    )


def test_a_bn_checkpoint_loads_and_lacks_only_the_instance_half() -> None:
    bn = trained_bn()
    layer = BatchInstanceNorm2d(3).double()
    result = layer.load_state_dict(bn.state_dict(), strict=False)
    assert set(result.missing_keys) == INSTANCE_HALF
    assert result.unexpected_keys == []
    for name, value in bn.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[name], value, rtol=0, atol=0)


def test_clip_gate_clips_in_place() -> None:
    layer = BatchInstanceNorm2d(4)
    gate = layer.gate
    with torch.no_grad():
        gate.copy_(torch.tensor([-0.5, 0.25, 1.0, 1.5]))
    clip_gates_(layer)
    assert layer.gate is gate
    assert gate.tolist() == [0.0, 0.25, 1.0, 1.0]


def test_functional_call_replaces_the_gates() -> None:
    layer = layer_from(trained_bn()).train()
    layer.track_running_stats = False
    x = torch.randn(3, 3, 4, 2).double()
    gate = torch.tensor([0.1, 0.5, 0.9]).double().requires_grad_()
    y = functional_call(layer, {"gate": gate}, (x,))
    expected = batch_instance_norm(x, gate, *parameters_of(layer)[1:])
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    assert torch.autograd.grad(y.square().sum(), gate)[0].abs().min() > 0
    assert layer.gate.tolist() == [1.0] * 3


@pytest.mark.parametrize("training", [True, False])
def test_compiles_into_one_graph(training: bool) -> None:
    layer = layer_from(trained_bn(), gate=0.3).train(training)
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 3, 4, 2).double()
    torch.testing.assert_close(compiled(x), eager(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.running_var, eager.running_var, rtol=1e-12, atol=1e-12)
    assert layer.num_batches_tracked == eager.num_batches_tracked
