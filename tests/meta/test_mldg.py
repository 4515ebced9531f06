"""MLDG's update of all parameters against its objective written out, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabin_plugin.meta import MLDGStep, held_call, mldg_step
from metabin_plugin.norm import BatchInstanceNorm2d

INNER_LR = 0.05


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        BatchInstanceNorm2d(3),
        nn.Softplus(),
        nn.Conv2d(3, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).double()
    nn.init.uniform_(layers[1].gate, 0.3, 0.7)
    return layers


@pytest.fixture
def sides() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 2, 5, 4, dtype=torch.float64, generator=generator),
            torch.randint(5, (n,), generator=generator),
        )
        for n in (4, 3)
    ]


def explicit_loss(p: dict[str, Tensor], images: Tensor, identities: Tensor) -> Tensor:
    """Cross-entropy of the network, written out with torch's own normalizations."""
    x = F.conv2d(images, p["0.weight"], p["0.bias"], padding=1)
    rho = p["1.gate"][None, :, None, None]
    batch = F.batch_norm(x, None, None, p["1.weight"], p["1.bias"], training=True)
    instance = F.instance_norm(x, weight=p["1.instance_weight"], bias=p["1.instance_bias"])
    x = F.softplus(rho * batch + (1 - rho) * instance)
    x = F.conv2d(x, p["3.weight"], p["3.bias"]).mean((2, 3))
    logits = x @ p["6.weight"].T + p["6.bias"]
    return (logits.logsumexp(1) - logits.gather(1, identities[:, None])[:, 0]).mean()


def step(network: nn.Module, sides: list[tuple[Tensor, Tensor]], inner_lr: float) -> MLDGStep:
    (images, identities), (test_images, test_identities) = sides
    parameters = dict(network.named_parameters())
    loss = F.cross_entropy(network(images), identities)
    gradients = dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))
    return mldg_step(
        parameters,
        gradients,
        lambda p: {
            "ce": F.cross_entropy(held_call(network, test_images, parameters=p), test_identities)
        },
        inner_lr,
        gates=["1.gate"],
    )


def test_the_gradient_is_that_of_both_losses_each_where_it_is_taken(
    network: nn.Module, sides: list[tuple[Tensor, Tensor]]
) -> None:
    result = step(network, sides, INNER_LR)

    theta = {n: p.detach().clone().requires_grad_() for n, p in network.named_parameters()}
    first = torch.autograd.grad(explicit_loss(theta, *sides[0]), list(theta.values()))
    moved = {
        name: (value - INNER_LR * gradient).detach().requires_grad_()
        for (name, value), gradient in zip(theta.items(), first, strict=True)
    }
    loss = explicit_loss(moved, *sides[1])
    second = torch.autograd.grad(loss, list(moved.values()))
    torch.testing.assert_close(result.meta_test_losses["ce"], loss.detach(), rtol=1e-12, atol=0)
    for name, one, other in zip(theta, first, second, strict=True):
        torch.testing.assert_close(result.gradients[name], one + other, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(result.meta_test_gradients[name], other, rtol=1e-9, atol=1e-14)
        assert result.gradients[name].abs().max() > 0


def test_only_gates_are_clipped(network: nn.Module, sides: list[tuple[Tensor, Tensor]]) -> None:
    nn.init.constant_(network[0].weight, 3.0)
    result = step(network, sides, 1e4)
    gate = result.inner_parameters["1.gate"]
    assert set(gate.tolist()) <= {0.0, 1.0}
    weights = result.inner_parameters["6.weight"]
    assert weights.min() < 0
    assert weights.max() > 1


def test_nothing_is_written(network: nn.Module, sides: list[tuple[Tensor, Tensor]]) -> None:
    network[1].track_running_stats = False
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step(network, sides, INNER_LR)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_meta_test_gradient_is_averaged_alone(
    network: nn.Module, sides: list[tuple[Tensor, Tensor]]
) -> None:
    theta = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    gradients = {"w": torch.tensor([10.0, 20.0], dtype=torch.float64)}
    result = mldg_step(
        theta,
        gradients,
        lambda p: {"square": p["w"].square().sum()},
        0.1,
        average=lambda tensors: {name: value / 4 for name, value in tensors.items()},
    )
    # theta' = (0, 0), where the square has no slope: only the given gradient is left.
    torch.testing.assert_close(result.gradients["w"], gradients["w"])
    result = mldg_step(
        theta,
        gradients,
        lambda p: {"sum": p["w"].sum()},
        0.1,
        average=lambda tensors: {name: value / 4 for name, value in tensors.items()},
    )
    torch.testing.assert_close(result.gradients["w"], gradients["w"] + 0.25)
