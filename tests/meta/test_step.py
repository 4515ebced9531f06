"""The meta step against double backward through an explicit formula, in float64."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabin_plugin.meta import MetaStep, held_call, inner_update, meta_step, random_direction
from metabin_plugin.norm import BatchInstanceNorm2d, gate_parameters

INNER_LR = 0.05


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        BatchInstanceNorm2d(3),
        nn.Softplus(),
        nn.Conv2d(3, 4, 1),
        BatchInstanceNorm2d(4),
        nn.Tanh(),
    ).double()
    for gate in gate_parameters(layers).values():
        nn.init.uniform_(gate, 0.3, 0.7)
    return layers


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(n, 2, 5, 4, dtype=torch.float64, generator=generator) for n in (4, 3))


def explicit_forward(network: nn.Module, gates: list[Tensor], x: Tensor) -> Tensor:
    """The network written out with Eq. 1 from torch's own two normalizations."""
    remaining = iter(gates)
    for layer in network:
        if isinstance(layer, BatchInstanceNorm2d):
            rho = next(remaining)[None, :, None, None]
            batch = F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)
            instance = F.instance_norm(x, weight=layer.instance_weight, bias=layer.instance_bias)
            x = rho * batch + (1 - rho) * instance
        else:
            x = layer(x)
    return x


def train_loss(features: Tensor) -> Tensor:
    return features.pow(3).mean() + features.exp().mean()


def test_loss(features: Tensor) -> Tensor:
    return (features.mean((2, 3)) - 0.3).pow(2).sum()


test_loss.__test__ = False  # type: ignore[attr-defined]


def run(
    network: nn.Module,
    images: tuple[Tensor, Tensor],
    second_order: bool,
    scale: float | Tensor = 1.0,
    average: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    **named: Any,
) -> MetaStep:
    return meta_step(
        dict(gate_parameters(network)),
        lambda gates: {"a": train_loss(held_call(network, images[0], parameters=gates))},
        lambda gates: {"b": test_loss(held_call(network, images[1], parameters=gates))},
        named.pop("inner_lr", INNER_LR),
        second_order=second_order,
        loss_scale=scale,
        average=average,
        **named,
    )


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_outer_gradient_equals_double_backward(
    network: nn.Module, images: tuple[Tensor, Tensor], second_order: bool, scale: float
) -> None:
    step = run(network, images, second_order, scale)

    rho = [g.detach().clone().requires_grad_() for g in gate_parameters(network).values()]
    inner = train_loss(explicit_forward(network, rho, images[0]))
    gradients = torch.autograd.grad(inner, rho, create_graph=second_order)
    moved = [r - INNER_LR * g for r, g in zip(rho, gradients, strict=True)]
    outer = test_loss(explicit_forward(network, moved, images[1]))
    expected = torch.autograd.grad(outer, rho)

    for actual, value in zip(step.outer_gradients.values(), expected, strict=True):
        torch.testing.assert_close(actual / scale, value, rtol=1e-10, atol=1e-14)
    for actual, value in zip(step.inner_gradients.values(), gradients, strict=True):
        torch.testing.assert_close(actual, value.detach(), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(step.meta_test_losses["b"], outer.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("inner_lr", [INNER_LR, 0.0])
@pytest.mark.parametrize("with_meta_train", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_controls_equal_their_explicit_formulas(
    network: nn.Module,
    images: tuple[Tensor, Tensor],
    inner_lr: float,
    with_meta_train: bool,
    scale: float,
) -> None:
    """No inner step, a given direction in the place of the gradient, both losses descended."""
    generator = torch.Generator().manual_seed(3)
    directions = {
        name: torch.randn(gate.shape, generator=generator, dtype=torch.float64)
        for name, gate in gate_parameters(network).items()
    }
    step = run(
        network,
        images,
        False,
        scale,
        inner_lr=inner_lr,
        inner_direction=lambda _gradients: directions,
        with_meta_train=with_meta_train,
    )

    rho = [g.detach().clone().requires_grad_() for g in gate_parameters(network).values()]
    inner = train_loss(explicit_forward(network, rho, images[0]))
    gradients = torch.autograd.grad(inner, rho)
    moved = [
        (r.detach() - inner_lr * d).clamp(0, 1).requires_grad_()
        for r, d in zip(rho, directions.values(), strict=True)
    ]
    outer = test_loss(explicit_forward(network, moved, images[1]))
    expected = torch.autograd.grad(outer, moved)
    if with_meta_train:
        expected = [e + g for e, g in zip(expected, gradients, strict=True)]
    for actual, value in zip(step.outer_gradients.values(), expected, strict=True):
        torch.testing.assert_close(actual / scale, value, rtol=1e-10, atol=1e-14)
    for actual, value in zip(step.inner_gradients.values(), gradients, strict=True):
        torch.testing.assert_close(actual, value, rtol=1e-10, atol=1e-14)


def test_a_second_order_step_in_a_direction_of_its_own_is_refused(
    network: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(ValueError, match="no second order"):
        run(network, images, True, inner_direction=lambda gradients: gradients)


def test_random_directions_are_as_long_as_the_gradients() -> None:
    gradients = {"a": torch.full((3, 2), 2.0), "b": torch.tensor([1e-6]), "c": torch.zeros(4)}
    drawn = random_direction(gradients, seed=5, iteration=7)
    for name, gradient in gradients.items():
        assert drawn[name].shape == gradient.shape
        torch.testing.assert_close(drawn[name].norm(), gradient.norm(), rtol=1e-6, atol=0)


def test_random_directions_are_functions_of_seed_and_iteration() -> None:
    gradients = {"a": torch.ones(50), "b": torch.ones(50)}
    first = random_direction(gradients, 5, 7)
    torch.rand(3)
    assert all(torch.equal(v, first[n]) for n, v in random_direction(gradients, 5, 7).items())
    for other in (random_direction(gradients, 5, 8)["a"], random_direction(gradients, 6, 7)["a"]):
        assert not torch.equal(other, first["a"])
    assert not torch.equal(first["a"], first["b"])


def test_random_directions_prefer_none() -> None:
    """Their mean vanishes, and coordinates are uncorrelated and of one size."""
    gradients = {"a": torch.tensor([3.0, 0.0, 0.0, 4.0], dtype=torch.float64)}
    drawn = torch.stack([random_direction(gradients, 1, i)["a"] for i in range(4000)])
    assert drawn.mean(0).abs().max() < 0.2
    torch.testing.assert_close(
        drawn.T @ drawn / len(drawn), torch.eye(4, dtype=torch.float64) * 25 / 4, rtol=0, atol=0.6
    )


def test_orders_differ(network: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    first, second = (run(network, images, order).outer_gradients for order in (False, True))
    assert any((first[name] - second[name]).abs().max() > 1e-5 for name in first)


def test_the_clip_passes_gradients_through(
    network: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    for gate in gate_parameters(network).values():
        nn.init.ones_(gate)
    step = run(network, images, second_order=True)
    clipped = {name: step.inner_parameters[name] == 1 for name in step.inner_parameters}
    assert any(mask.any() for mask in clipped.values())
    assert all(step.outer_gradients[name][mask].abs().min() > 0 for name, mask in clipped.items())


def test_nothing_is_written(network: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    run(network, images, second_order=True)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in network.parameters())


def test_only_gates_get_gradients(network: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    gates = {n: g.detach().requires_grad_() for n, g in gate_parameters(network).items()}
    weight = network[0].weight
    loss = held_call(network, images[0], parameters=gates).sum()
    assert torch.autograd.grad(loss, weight, allow_unused=True, retain_graph=True) == (None,)
    assert all(g is not None for g in torch.autograd.grad(loss, list(gates.values())))


class Counting(nn.Module):
    """A layer that writes its buffer in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x


def test_a_held_module_is_afterwards_as_it_was() -> None:
    frozen, untracked = nn.BatchNorm2d(3).eval(), nn.BatchNorm2d(3, track_running_stats=False)
    module = nn.Sequential(Counting(), nn.BatchNorm2d(3), frozen, untracked)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(4, 3, 2, 2)

    def flags() -> list[bool]:
        return [norm.track_running_stats for norm in module[1:]]

    seen: list[list[bool]] = []
    handle = module[1].register_forward_pre_hook(lambda *_: seen.append(flags()))
    held = held_call(module, x)
    with pytest.raises(RuntimeError):
        held_call(module, x[:, :2])
    assert seen[0] == [False, True, False]
    assert flags() == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    handle.remove()
    torch.testing.assert_close(module(x), held, rtol=0, atol=0)
    assert module[0].calls == 1
    assert not torch.equal(module[1].running_mean, before["1.running_mean"])


class Ghost(nn.BatchNorm2d):
    """As fastreid's GhostBN, it puts new running statistics in the place of the old."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.running_mean.clone()
        y = nn.functional.batch_norm(x, mean, self.running_var.clone(), training=True)
        self.running_mean = mean
        self.num_batches_tracked.add_(1)
        return y


def test_a_norm_layer_that_moves_its_statistics_itself_is_held() -> None:
    module = nn.Sequential(Ghost(3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    held_call(module, torch.randn(4, 3, 2, 2))
    torch.testing.assert_close(dict(module.state_dict()), before, rtol=0, atol=0)


def test_a_scale_may_be_on_the_device(network: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    number = run(network, images, True, 1024.0)
    tensor = run(network, images, True, torch.tensor(1024.0))
    for kind in ("inner_gradients", "outer_gradients"):
        torch.testing.assert_close(getattr(tensor, kind), getattr(number, kind), rtol=0, atol=0)


def test_inner_update_clips() -> None:
    gates = {"g": torch.tensor([0.0, 0.5, 1.0])}
    moved = inner_update(gates, {"g": torch.tensor([1.0, 1.0, -1.0])}, 0.1)
    torch.testing.assert_close(moved["g"], torch.tensor([0.0, 0.4, 1.0]))


class Rendezvous:
    """Two threads in the place of two processes: a mean over what both bring."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=60)
        self.brought: dict[int, dict[str, Tensor]] = {}

    def mean(self, rank: int, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        self.brought[rank] = gradients
        self.barrier.wait()
        mean = {name: (self.brought[0][name] + self.brought[1][name]) / 2 for name in gradients}
        self.barrier.wait()
        return mean


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_mean_over_processes_is_the_step_of_the_mean_loss(
    network: nn.Module, images: tuple[Tensor, Tensor], second_order: bool, scale: float
) -> None:
    """Processes with losses of their own against one whose losses are their means."""
    shares = [images, tuple(1.3 * x.flip(0) - 0.2 for x in images)]

    def on_all(loss: Callable[[Tensor], Tensor], side: int, gates: dict[str, Tensor]) -> Tensor:
        return sum(loss(held_call(network, share[side], parameters=gates)) for share in shares) / 2

    expected = meta_step(
        dict(gate_parameters(network)),
        lambda gates: {"a": on_all(train_loss, 0, gates)},
        lambda gates: {"b": on_all(test_loss, 1, gates)},
        INNER_LR,
        second_order=second_order,
        loss_scale=scale,
    )
    meeting = Rendezvous()

    def process(rank: int) -> MetaStep:
        average = functools.partial(meeting.mean, rank)
        return run(copy.deepcopy(network), shares[rank], second_order, scale, average)

    with ThreadPoolExecutor(2) as threads:
        steps = list(threads.map(process, range(2)))
    for kind in ("inner_gradients", "inner_parameters", "outer_gradients"):
        wanted, first, second = (getattr(step, kind) for step in (expected, *steps))
        assert all(torch.equal(first[name], second[name]) for name in wanted)
        torch.testing.assert_close(first, wanted, rtol=1e-10, atol=1e-12)


def test_a_gradient_that_is_not_finite_in_one_process_is_so_in_all(
    network: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    shares = [images, (images[0] * torch.nan, images[1])]
    meeting = Rendezvous()

    def process(rank: int) -> MetaStep:
        average = functools.partial(meeting.mean, rank)
        return run(copy.deepcopy(network), shares[rank], False, 1.0, average)

    with ThreadPoolExecutor(2) as threads:
        for step in threads.map(process, range(2)):
            assert all(value.isnan().any() for value in step.inner_gradients.values())
