"""Norm layers whose batch is spread over processes against one process with the whole batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metabin_plugin.norm import BatchInstanceNorm2d, SynchronizedBatchNorm2d, synchronize_norms
from metabin_plugin.processes import gather
from tests.distributed.processes import run_ranks

# Images of each process; the statistics of unequal shares are weighted.
SHARES = {2: [3, 2], 4: [2, 1, 3, 1]}
SHAPES = {"map": (3, 4, 2), "pixel": (3, 1, 1)}


def layer(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(5)
    made = BatchInstanceNorm2d(3) if kind == "bin" else nn.BatchNorm2d(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.uniform_(0.2, 0.8)
    return made.to(dtype)


def inputs(shape: str, mean: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, *SHAPES[shape], dtype=torch.float64, generator=generator)
    return (mean + 2 * x).requires_grad_()


def loss(y: Tensor) -> Tensor:
    return (y.pow(3) + y.exp() / 10).sum()


def both_derivatives(module: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Gradients, and the Hessian's product with a vector of the same length everywhere."""
    unknowns = [x, *module.parameters()]
    first = torch.autograd.grad(loss(y), unknowns, create_graph=True, materialize_grads=True)
    product = sum((g * torch.cos(u.detach())).sum() for g, u in zip(first, unknowns, strict=True))
    second = torch.autograd.grad(product, unknowns, materialize_grads=True)
    return [g.detach() for g in (*first, *second)]


def whole_batch(kind: str, shape: str, count: int, momentum: float | None) -> dict[str, Any]:
    module = layer(kind)
    module.momentum = momentum
    x = inputs(shape).detach()[:count].requires_grad_()
    y = module(x)
    return {"y": y.detach(), "derivatives": both_derivatives(module, x, y), **buffers(module)}


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def share_of_batch(rank: int, kind: str, shape: str, shares: list[int], momentum: Any) -> Any:
    module = nn.Sequential(layer(kind))
    synchronize_norms(module)
    module[0].momentum = momentum
    start = sum(shares[:rank])
    x = inputs(shape).detach()[start : start + shares[rank]].requires_grad_()
    y = module(x)
    derivatives = both_derivatives(module, x, y)
    return {"y": y.detach(), "derivatives": derivatives, **buffers(module[0])}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["bin", "bn"])
def test_shares_equal_the_whole_batch(tmp_path: Path, kind: str, shape: str, size: int) -> None:
    momentum = 0.3 if size == 2 else None
    expected = whole_batch(kind, shape, sum(SHARES[size]), momentum)
    ranks = run_ranks(tmp_path / "run", size, share_of_batch, kind, shape, SHARES[size], momentum)
    exact = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(torch.cat([rank["y"] for rank in ranks]), expected["y"], **exact)
    for rank in ranks:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(rank[name], expected[name], **exact)
            torch.testing.assert_close(rank[name], ranks[0][name], rtol=0, atol=0)
    half = len(expected["derivatives"]) // 2
    for number, value in enumerate(expected["derivatives"]):
        of_ranks = [rank["derivatives"][number] for rank in ranks]
        # A process has its own images, and its own copy of the parameters.
        total = torch.cat(of_ranks) if number % half == 0 else sum(of_ranks)
        torch.testing.assert_close(total, value, **exact)


def large_means(rank: int) -> Tensor:
    module = layer("bin", torch.float32)
    module.synchronize = True
    return module(inputs("map", mean=1e4).detach()[3 * rank : 3 * rank + 3].float()).detach()


def test_large_means_do_not_cancel(tmp_path: Path) -> None:
    actual = torch.cat(run_ranks(tmp_path / "run", 2, large_means))
    exact = layer("bin")(inputs("map", mean=1e4).detach()[:6].float().double()).detach()
    # float32 represents values near 1e4 in steps of 1e-3, in units of a deviation of 2.
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=3e-3)


def held_and_evaluated(rank: int) -> list[dict[str, Tensor]]:
    results = []
    for module in (layer("bin"), layer("bn")):
        module = nn.Sequential(module)
        synchronize_norms(module)
        before = buffers(module)
        x = inputs("map").detach()[rank : rank + 2]
        evaluated = module.eval()(x)
        module.train()
        module[0].track_running_stats = False
        held = module(x)
        assert all(torch.equal(value, before[name]) for name, value in buffers(module).items())
        results.append({"evaluated": evaluated.detach(), "held": held.detach()})
    return results


def test_hold_uses_the_global_batch_and_evaluation_none(tmp_path: Path) -> None:
    ranks = run_ranks(tmp_path / "run", 2, held_and_evaluated)
    for number, kind in enumerate(("bin", "bn")):
        batch = torch.cat([inputs("map").detach()[rank : rank + 2] for rank in range(2)])
        for mode, module in (("evaluated", layer(kind).eval()), ("held", layer(kind))):
            actual = torch.cat([rank[number][mode] for rank in ranks])
            expected = module(batch).detach()
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["bin", "bn"])
def test_one_process_computes_the_same_bits(kind: str, shape: str) -> None:
    plain = layer(kind)
    module = nn.Sequential(copy.deepcopy(plain))
    synchronize_norms(module)
    for training in (True, False):
        x = inputs(shape)
        assert torch.equal(module.train(training)(x), plain.train(training)(x))
    for name, value in plain.state_dict().items():
        assert torch.equal(module[0].state_dict()[name], value), name


def test_synchronize_norms_keeps_weights_names_and_what_is_trained() -> None:
    network = nn.Sequential(layer("bin"), nn.Conv2d(3, 3, 1), layer("bn"))
    network[2].bias.requires_grad_(False)
    before = copy.deepcopy(network)
    synchronize_norms(network)
    assert network[0].synchronize
    assert type(network[2]) is SynchronizedBatchNorm2d
    torch.testing.assert_close(network.state_dict(), before.state_dict(), rtol=0, atol=0)
    trained = {name: p.requires_grad for name, p in network.named_parameters()}
    assert trained == {name: p.requires_grad for name, p in before.named_parameters()}


def trained_in_parallel(rank: int) -> list[float]:
    """Two steps of a network whose second norm layer sees one pixel, as ResNeSt's do."""
    torch.manual_seed(0)
    norms = BatchInstanceNorm2d(3), BatchInstanceNorm2d(3)
    network = nn.Sequential(nn.Conv2d(3, 3, 3), norms[0], nn.AdaptiveAvgPool2d(1), norms[1])
    for norm in norms:
        norm.gate.requires_grad_(False)
    parallel = nn.parallel.DistributedDataParallel(network)
    for step in range(2):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2 * step + rank))
        parallel(x).pow(3).sum().backward()
    return norms[1].instance_weight.grad.tolist()


def test_data_parallelism_takes_a_layer_of_one_pixel(tmp_path: Path) -> None:
    assert run_ranks(tmp_path / "run", 2, trained_in_parallel) == [[0.0] * 3] * 2


def narrow_types(rank: int) -> list[torch.dtype]:
    kinds = (torch.float16, torch.bfloat16, torch.int64)
    gathered = [gather(torch.full((2,), rank + 1).to(kind)) for kind in kinds]
    assert all(values.tolist() == [[1, 1], [2, 2]] for values in gathered)
    return [values.dtype for values in gathered]


def test_any_type_is_gathered_as_it_is(tmp_path: Path) -> None:
    for kinds in run_ranks(tmp_path / "run", 2, narrow_types):
        assert kinds == [torch.float16, torch.bfloat16, torch.int64]
