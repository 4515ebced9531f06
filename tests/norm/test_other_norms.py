"""IN and BN+IN half (Table 4): values, gradients, state, and what they share with BIN."""

from __future__ import annotations

import copy

import pytest
import torch
from fastreid.solver.build import get_default_optimizer_params
from torch import Tensor, nn

from metabin_plugin.deploy import fold_norms
from metabin_plugin.errors import NormError
from metabin_plugin.meta import held_call
from metabin_plugin.norm import (
    NORM_FORMS,
    NORMS,
    BatchInstanceNorm2d,
    HalfInstanceNorm2d,
    InstanceNorm2d,
    convert_norm,
    count_gates,
    gate_parameters,
    set_norm_form,
    synchronize_norms,
)

MODES = ["train", "eval", "hold"]
OTHERS = {name: norm for name, norm in NORMS.items() if norm is not BatchInstanceNorm2d}


def standardized(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return (values - mean) / (variance + 1e-5) ** 0.5


def by_definition(name: str, x: Tensor, weight: Tensor, bias: Tensor, running: object) -> Tensor:
    """Each sample and channel by itself; `running` is None or the mean and variance to use."""
    channels = x.shape[1]
    first_of_bn = {"IN": channels, "BNINHalf": channels // 2}[name]
    rows = []
    for sample in x:
        planes = []
        for c in range(channels):
            if c < first_of_bn:
                values = sample[c]
                mean, variance = values.mean(), ((values - values.mean()) ** 2).mean()
            elif running is None:
                values = x[:, c]
                mean, variance = values.mean(), ((values - values.mean()) ** 2).mean()
            else:
                mean, variance = running[0][c], running[1][c]
            planes.append(weight[c] * standardized(sample[c], mean, variance) + bias[c])
        rows.append(torch.stack(planes))
    return torch.stack(rows)


def trained_bn(channels: int, dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d:
    torch.manual_seed(channels)
    bn = nn.BatchNorm2d(channels).to(dtype)
    nn.init.normal_(bn.weight, 1.0)
    nn.init.normal_(bn.bias)
    bn(torch.randn(4, channels, 3, 2, dtype=dtype) * 2 + 1)
    return bn


def layer_in(mode: str, name: str, channels: int) -> nn.Module:
    layer = convert_norm(trained_bn(channels), name)
    layer.train(mode != "eval")
    if mode == "hold":
        layer.track_running_stats = False
    return layer


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", OTHERS)
def test_values_and_gradients_are_those_of_the_definition(
    name: str, mode: str, channels: int, memory_format: torch.memory_format
) -> None:
    layer = layer_in(mode, name, channels)
    running = None
    if mode == "eval" and name == "BNINHalf":
        running = (layer.running_mean.clone(), layer.running_var.clone())
    x = (torch.randn(3, channels, 4, 3).double() * 2 + 1).to(memory_format=memory_format)
    x.requires_grad_()
    y = layer(x)
    expected = by_definition(name, x, layer.weight, layer.bias, running)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    assert y.is_contiguous(memory_format=memory_format)

    incoming = torch.randn_like(y)
    inputs = (x, layer.weight, layer.bias)
    ours = torch.autograd.grad(y, inputs, incoming)
    theirs = torch.autograd.grad(expected, inputs, incoming)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives(name: str, mode: str) -> None:
    layer = layer_in(mode, name, 2)
    x = torch.randn(2, 2, 3, 2).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: layer(x), (x,))


def test_running_statistics_of_the_half_layer_are_those_of_bn() -> None:
    bn = trained_bn(5)
    half = convert_norm(copy.deepcopy(bn), "BNINHalf")
    for _ in range(3):
        x = torch.randn(4, 5, 3, 2).double() + 2
        bn(x)
        half(x)
    torch.testing.assert_close(half.state_dict(), bn.state_dict(), rtol=1e-12, atol=1e-12)


def test_the_larger_half_of_an_odd_number_is_batch_normalized() -> None:
    assert HalfInstanceNorm2d(5).gate.tolist() == [0, 0, 1, 1, 1]
    assert HalfInstanceNorm2d(4).gate.tolist() == [0, 0, 1, 1]
    assert HalfInstanceNorm2d(1).gate.tolist() == [1]


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("name", OTHERS)
def test_a_bn_checkpoint_loads_by_name(name: str, metadata: bool) -> None:
    state = trained_bn(4).state_dict()
    layer = OTHERS[name](4).double()
    result = layer.load_state_dict(state if metadata else dict(state), strict=False)
    assert result.missing_keys == []
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    assert set(layer.state_dict()) == (set(state) if name == "BNINHalf" else {"weight", "bias"})


@pytest.mark.parametrize("name", OTHERS)
def test_options_affine_and_frozen_parameters_carry_over(name: str) -> None:
    bn = nn.BatchNorm2d(3, eps=1e-3, momentum=0.3).double().eval()
    nn.init.normal_(bn.bias).requires_grad_(False)
    layer = convert_norm(bn, name)
    assert type(layer) is OTHERS[name]
    assert (layer.eps, layer.training) == (1e-3, False)
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (True, False)
    assert torch.equal(layer.bias, bn.bias)
    assert layer.weight.dtype == torch.float64
    if name == "BNINHalf":
        assert layer.momentum == 0.3
        assert layer.gate.dtype == torch.float64


def test_bin_at_the_half_layers_gates_is_the_half_layer() -> None:
    half = convert_norm(trained_bn(6), "BNINHalf")
    mixed = convert_norm(trained_bn(6), "BIN")
    with torch.no_grad():
        mixed.gate.copy_(half.gate)
    x = torch.randn(4, 6, 5, 3).double()
    torch.testing.assert_close(half(x), mixed(x), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_one_pixel_of_the_half_layer_is_the_bn_layer(training: bool) -> None:
    bn = trained_bn(4).train(training)
    half = convert_norm(copy.deepcopy(bn), "BNINHalf")
    x = torch.randn(4, 4, 1, 1).double()
    torch.testing.assert_close(half(x), bn(x), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_one_pixel_is_refused_by_instance_normalization(training: bool) -> None:
    with pytest.raises(NormError, match="leaves nothing of a 1x1 feature map; choose larger"):
        InstanceNorm2d(4).train(training)(torch.randn(2, 4, 1, 1))
    InstanceNorm2d(4)(torch.randn(2, 4, 2, 1))


@pytest.mark.parametrize("name", OTHERS)
def test_a_held_call_changes_nothing(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), convert_norm(trained_bn(4), name)).double()
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(3, 3, 6, 5).double()
    y = held_call(network, x)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(y, network(x), rtol=1e-12, atol=1e-12)
    assert not y.requires_grad


@pytest.mark.parametrize("name", OTHERS)
def test_there_is_nothing_to_meta_learn(name: str) -> None:
    network = convert_norm(nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(4)), name)
    assert gate_parameters(network) == {}
    assert count_gates(network) == (0, 0)
    assert {n.rpartition(".")[2] for n, _ in network.named_parameters()} == {"weight", "bias"}


@pytest.mark.parametrize("name", OTHERS)
def test_weights_decay_as_those_of_other_norms(name: str) -> None:
    groups = get_default_optimizer_params(
        convert_norm(nn.BatchNorm2d(3), name), base_lr=1.0, weight_decay=0.5, weight_decay_norm=0.25
    )
    assert [group["weight_decay"] for group in groups] == [0.25, 0.25]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", OTHERS)
def test_autocast_keeps_the_dtype_and_computes_precisely(
    name: str, memory_format: torch.memory_format
) -> None:
    layer = convert_norm(trained_bn(4, torch.float32), name)
    x = (20 + torch.randn(8, 4, 16, 8)).bfloat16().to(memory_format=memory_format)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    assert (y.dtype, x.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    assert layer.weight.grad.dtype == torch.float32
    expected = by_definition(name, x.double(), layer.weight, layer.bias, None)
    torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("form", NORM_FORMS)
def test_the_half_layer_has_the_forms_of_bin(form: str) -> None:
    network = nn.Sequential(convert_norm(trained_bn(4, torch.float32), "BNINHalf"))
    set_norm_form(network, form)
    assert network[0].form == form
    x = torch.randn(4, 4, 8, 4)
    expected = by_definition("BNINHalf", x, network[0].weight, network[0].bias, None)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_synchronizing_keeps_the_half_layer() -> None:
    network = convert_norm(nn.Sequential(nn.BatchNorm2d(4)), "BNINHalf")
    synchronize_norms(network)
    assert type(network[0]) is HalfInstanceNorm2d
    assert network[0].synchronize


@torch.no_grad()
@pytest.mark.parametrize(("name", "folded"), [("IN", 0), ("BNINHalf", 4)])
def test_folded_networks_compute_the_same(name: str, folded: int) -> None:
    norms = [convert_norm(trained_bn(channels), name) for channels in (3, 4)]
    network = nn.Sequential(
        nn.Conv2d(3, 3, 3), norms[0], nn.ReLU(), nn.Conv2d(3, 4, 3, bias=False), norms[1]
    )
    network.double().eval()
    x = torch.randn(2, 3, 9, 8).double()
    folding = fold_norms(network)
    torch.testing.assert_close(folding.network(x), network(x), rtol=1e-10, atol=1e-12)
    # Of 3 channels 2 are batch-normalized, of 4 channels 2.
    assert folding.folded_channels == folded
    assert folding.open_channels == 7 - folded


@pytest.mark.parametrize("name", OTHERS)
def test_compiles_into_one_graph(name: str) -> None:
    layer = convert_norm(trained_bn(4), name)
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 4, 4, 2).double()
    torch.testing.assert_close(compiled(x), eager(x), rtol=1e-11, atol=1e-12)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NormError, match=r"'GN' is not .*; use one of BIN, IN, BNINHalf"):
        convert_norm(nn.BatchNorm2d(3), "GN")
