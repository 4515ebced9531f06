from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from metabin_plugin.errors import NormError
from metabin_plugin.norm import BatchInstanceNorm2d, convert_norm


class FrozenBiasBatchNorm(nn.BatchNorm2d):
    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, eps=1e-3, momentum=0.3)
        self.bias.requires_grad_(False)


class Scaled(nn.Module):
    """A normalization that is no BatchNorm2d and shares only the name `weight` with it."""

    def __init__(self, num_features: int, eps: float, momentum: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features))
        self.other = nn.Parameter(torch.zeros(num_features))
        self.options = (eps, momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight[:, None, None]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 5, 1), FrozenBiasBatchNorm(5), nn.ReLU())
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), block, nn.BatchNorm1d(6))
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.5)
    net[:3](torch.randn(4, 3, 6, 6))
    return net


def norms(module: nn.Module) -> list[BatchInstanceNorm2d]:
    return [m for m in module.modules() if isinstance(m, BatchInstanceNorm2d)]


def test_replaces_nested_layers_and_subclasses_in_place() -> None:
    net = network()
    assert convert_norm(net, "BIN") is net
    assert type(net[1]) is BatchInstanceNorm2d
    assert type(net[2][1]) is BatchInstanceNorm2d
    assert type(net[3]) is nn.BatchNorm1d


@pytest.mark.parametrize("training", [True, False])
def test_the_converted_network_computes_the_same(training: bool) -> None:
    net = network().double().train(training)
    converted = convert_norm(copy.deepcopy(net), "BIN")
    x = torch.randn(4, 3, 6, 6).double()
    torch.testing.assert_close(converted[:3](x), net[:3](x), rtol=1e-12, atol=1e-12)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(converted.state_dict()[name], value, rtol=1e-12, atol=1e-12)


def test_options_and_trainability_carry_over() -> None:
    net = network()
    net[1].momentum = None
    net[1].eval()
    convert_norm(net, "BIN")
    first, second = norms(net)
    assert (first.eps, first.momentum, first.training) == (1e-5, None, False)
    assert (second.eps, second.momentum, second.training) == (1e-3, 0.3, True)
    frozen = [name for name, p in second.named_parameters() if not p.requires_grad]
    assert frozen == ["bias", "instance_bias"]
    assert all(p.requires_grad for p in first.parameters())


def test_the_instance_affine_starts_as_a_copy_of_the_batch_affine() -> None:
    net = network()
    weight = net[1].weight.detach().clone()
    layer = norms(convert_norm(net, "BIN"))[0]
    assert torch.equal(layer.instance_weight, weight)
    assert torch.equal(layer.instance_bias, layer.bias)
    assert layer.instance_weight.data_ptr() != layer.weight.data_ptr()
    assert layer.gate.tolist() == [1.0] * 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    layer = norms(convert_norm(network().to(dtype), "BIN"))[0]
    floating = [*layer.parameters(), layer.running_mean, layer.running_var]
    assert {t.dtype for t in floating} == {dtype}
    assert layer.num_batches_tracked.dtype == torch.int64


def test_device_is_kept() -> None:
    layer = convert_norm(nn.BatchNorm2d(3, device="meta"), "BIN")
    assert {t.device.type for t in layer.state_dict().values()} == {"meta"}


def test_a_module_that_is_itself_a_bn_is_returned_converted() -> None:
    bn = nn.BatchNorm2d(3)
    layer = convert_norm(bn, "BIN")
    assert type(layer) is BatchInstanceNorm2d
    layer(torch.randn(2, 3, 4, 4))
    assert bn.num_batches_tracked == 0
    assert torch.equal(bn.running_mean, torch.zeros(3))


def test_a_layer_used_twice_stays_one_layer() -> None:
    bn = nn.BatchNorm2d(3)
    net = nn.ModuleDict({"a": bn, "b": bn, "c": nn.Sequential(bn)})
    convert_norm(net, "BIN")
    assert type(net["a"]) is BatchInstanceNorm2d
    assert net["a"] is net["b"]
    assert net["a"] is net["c"][0]


def test_layers_without_running_statistics_stay_without() -> None:
    layer = convert_norm(nn.BatchNorm2d(3, track_running_stats=False), "BIN")
    assert layer.running_mean is None
    assert not layer.track_running_stats
    assert layer(torch.randn(2, 3, 4, 4)).shape == (2, 3, 4, 4)


def test_converting_twice_changes_nothing() -> None:
    net = convert_norm(network(), "BIN")
    before = norms(net)
    torch.nn.init.constant_(before[0].gate, 0.5)
    convert_norm(net, "BIN")
    assert all(a is b for a, b in zip(before, norms(net), strict=True))


def test_a_new_bn_beside_converted_ones_is_converted() -> None:
    net = nn.Sequential(convert_norm(network(), "BIN"), nn.BatchNorm2d(2))
    convert_norm(net, "BIN")
    assert len(norms(net)) == 3


@pytest.mark.parametrize("norm", [Scaled, lambda n, eps, momentum: Scaled(n, eps, momentum)])
def test_other_norms_take_over_what_they_share(norm) -> None:
    net = network()
    weight = net[2][1].weight.detach().clone()
    layer = convert_norm(net, norm)[2][1]
    assert isinstance(layer, Scaled)
    assert torch.equal(layer.weight, weight)
    assert layer.other.tolist() == [0.0] * 5
    assert layer.options == (1e-3, 0.3)


def test_a_class_may_be_given_instead_of_its_name() -> None:
    assert len(norms(convert_norm(network(), BatchInstanceNorm2d))) == 2
    assert len(norms(convert_norm(network(), partial(BatchInstanceNorm2d)))) == 2


@pytest.mark.parametrize(
    "net", [nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(4)), nn.Linear(2, 3)]
)
def test_nothing_to_convert_is_an_error(net: nn.Module) -> None:
    with pytest.raises(NormError, match=f"{type(net).__name__} has no BatchNorm2d"):
        convert_norm(net, "BIN")


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(NormError, match="'BINN'"):
        convert_norm(network(), "BINN")
