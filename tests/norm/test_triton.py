"""The kernels of BIN, on a GPU where there is one and else by Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck

from metabin_plugin.norm import BatchInstanceNorm2d, HalfInstanceNorm2d, batch_instance_norm
from metabin_plugin.norm import triton_form as form
from tests.campaigns import EXHAUSTIVE
from tests.norm.operators import Operators
from tests.norm.oracle import bin_by_loops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMATS = (torch.contiguous_format, torch.channels_last)
# Sizes that are powers of 2 and none, one sample, channel, row or column.
SHAPES = ((3, 5, 7, 6), (2, 4, 8, 4), (1, 1, 1, 5), (1, 3, 4, 1), (70, 2, 2, 1), (2, 67, 3, 3))
MODES = ("training", "hold", "evaluation")
NAMES = ("x", "gate", "weight", "bias", "instance_weight", "instance_bias")


def arguments(shape: Sequence[int], mean: float = 1.0, gate: float | None = None) -> list[Tensor]:
    """x and the parameters, float64, on the CPU, of values that float32 has."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = mean + torch.randn(tuple(shape), generator=generator)
    gates = torch.rand(shape[1], generator=generator)
    if gate is not None:
        gates.fill_(gate)
    affine = [1 + torch.randn(shape[1], generator=generator) / 3 for _ in range(4)]
    return [t.double().requires_grad_() for t in (x, gates, *affine)]


def running(channels: int) -> tuple[Tensor, Tensor]:
    return torch.linspace(-1, 1, channels).double(), torch.linspace(0.5, 2, channels).double()


def on_device(
    tensors: Sequence[Tensor], memory_format: torch.memory_format, dtype: torch.dtype
) -> list[Tensor]:
    """Leaves for the kernels: the map in a format and dtype, the parameters in float32."""
    x, *rest = (t.detach().to(DEVICE, torch.float32) for t in tensors)
    narrow = x.to(dtype).contiguous(memory_format=memory_format)
    return [t.requires_grad_() for t in (narrow, *rest)]


def close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    error = (actual.double().cpu() - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
    assert error <= tolerance, f"{what}: {error:.1e}"


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition(shape, mode: str, memory_format: torch.memory_format) -> None:
    exact = arguments(shape)
    statistics = running(shape[1])
    expected = bin_by_loops(*exact, running=statistics if mode == "evaluation" else None)
    incoming = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    of_all = torch.autograd.grad(expected, exact, incoming.double())

    inputs = on_device(exact, memory_format, torch.float32)
    moved = [s.float().to(DEVICE) for s in statistics]
    y = batch_instance_norm(
        *inputs,
        *([None, None] if mode == "hold" else moved),
        training=mode != "evaluation",
        momentum=0.25,
        form="triton",
    )
    assert y.is_contiguous(memory_format=memory_format)
    close(y, expected, 2e-6, "y")
    found = torch.autograd.grad(y, inputs, incoming.to(DEVICE))
    assert found[0].is_contiguous(memory_format=memory_format)
    for name, one, other in zip(NAMES, found, of_all, strict=True):
        close(one, other, 2e-5, name)

    if mode == "training":
        values = exact[0].detach().transpose(0, 1).flatten(1)
        close(moved[0], 0.75 * statistics[0] + 0.25 * values.mean(1), 1e-6, "mean")
        close(moved[1], 0.75 * statistics[1] + 0.25 * values.var(1), 1e-6, "variance")
    else:
        assert all(torch.equal(m.cpu().double(), s) for m, s in zip(moved, statistics, strict=True))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("gate", [0.0, 0.5, 1.0])
def test_inference_equals_the_definition(gate: float, memory_format: torch.memory_format) -> None:
    exact = arguments((3, 5, 7, 6), gate=gate)
    statistics = running(5)
    expected = bin_by_loops(*exact, running=statistics)
    inputs = on_device(exact, memory_format, torch.float32)
    with torch.no_grad():
        y = batch_instance_norm(
            *inputs, *(s.float().to(DEVICE) for s in statistics), training=False, form="triton"
        )
    close(y, expected, 2e-6, "y")


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_gates_at_the_ends(gate: float, memory_format: torch.memory_format) -> None:
    exact = arguments((3, 4, 4, 5), gate=gate)
    expected = bin_by_loops(*exact)
    inputs = on_device(exact, memory_format, torch.float32)
    y = batch_instance_norm(*inputs, form="triton")
    close(y, expected, 2e-6, "y")
    for name, one, other in zip(
        NAMES,
        torch.autograd.grad(y.pow(3).sum(), inputs),
        torch.autograd.grad(expected.pow(3).sum(), exact),
        strict=True,
    ):
        close(one, other, 2e-5, name)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_large_means_do_not_cancel(memory_format: torch.memory_format) -> None:
    # float32 has steps of 1e-3 there, and the mean is rounded to one; the variance is 1.
    exact = arguments((4, 3, 16, 8), mean=1e4)
    expected = bin_by_loops(*exact)
    y = batch_instance_norm(*on_device(exact, memory_format, torch.float32), form="triton")
    close(y, expected, 5e-4, "y")


@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_map_is_split_into_chunks_and_joined(memory_format: torch.memory_format) -> None:
    exact = arguments((1, 2, 250, 130), mean=30.0)
    x = exact[0].detach().float().contiguous(memory_format=memory_format)
    grid = form.grid_of(x)
    # The last chunk is cut short, and so is its last tile.
    assert grid.chunks > 2
    assert grid.pixels % grid.chunk % grid.tile[1]
    values = exact[0].detach()
    mean, var = values.mean((2, 3)), values.var((2, 3), correction=0)
    inputs = on_device(exact, memory_format, torch.float32)
    y = batch_instance_norm(*inputs, form="triton")
    expected = batch_instance_norm(*exact, form="plain")
    close(y, expected.detach(), 5e-6, "y")
    _, (own_mean, own_var), _ = torch.ops.metabin.batch_instance_norm(
        *inputs, None, None, None, True, 0.0, 1e-5
    )
    close(own_mean, mean, 1e-6, "mean")
    close(own_var, var, 1e-5, "variance")
    for name, one, other in zip(
        NAMES,
        torch.autograd.grad(y.pow(3).sum(), inputs),
        torch.autograd.grad(expected.pow(3).sum(), exact),
        strict=True,
    ):
        close(one, other, 5e-5, name)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_narrow_maps_are_only_rounded(dtype, tolerance, memory_format) -> None:
    exact = arguments((4, 3, 8, 6))
    inputs = on_device(exact, memory_format, dtype)
    exact[0] = inputs[0].detach().cpu().double().requires_grad_()
    expected = bin_by_loops(*exact)
    with torch.autocast(DEVICE, dtype):
        y = batch_instance_norm(*inputs, form="triton")
    assert y.dtype == dtype
    close(y, expected, tolerance, "y")
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape).to(dtype).double()
    found = torch.autograd.grad((y * weights.to(DEVICE, dtype)).sum(), inputs)
    for name, one, other in zip(
        NAMES, found, torch.autograd.grad((expected * weights).sum(), exact), strict=True
    ):
        close(one, other, tolerance, name)
    assert [g.dtype for g in found] == [dtype] + [torch.float32] * 5


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "shape",
    # Of both backbones at 256x128; the last has more values than 2^31.
    [
        (80, 48, 128, 64),
        (80, 192, 32, 16),
        (80, 2048, 16, 8),
        (128, 513, 8, 4),
        (600, 64, 256, 256),
    ],
)
def test_real_sizes_on_a_gpu(shape, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    if dtype == torch.float32 and shape[0] == 600:
        pytest.skip("takes 40 GiB")
    torch.manual_seed(0)
    x = torch.randn(shape, device=DEVICE, dtype=dtype).contiguous(memory_format=memory_format)
    x = x.requires_grad_()
    parameters = [p.requires_grad_() for p in torch.rand(5, shape[1], device=DEVICE).unbind()]
    y = batch_instance_norm(x, *parameters, form="triton")
    incoming = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, *parameters], incoming)
    if shape[0] == 600:
        # Statistics of all samples, but only the last of them in float64: past 2^31 values.
        values = x.detach()
        mean = torch.stack([s.double().mean((1, 2)) for s in values])
        var = torch.stack([s.double().var((1, 2), correction=0) for s in values])
        gate, weight, bias, i_weight, i_bias = (p.detach().double() for p in parameters)
        batch_var = var.mean(0) + mean.var(0, correction=0)
        last = values[-1].double()
        column = (slice(None), None, None)
        batch = (last - mean.mean(0)[column]) * (weight * (batch_var + 1e-5).rsqrt())[column]
        own = (last - mean[-1][column]) * (i_weight * (var[-1] + 1e-5).rsqrt())[column]
        expected = gate[column] * (batch + bias[column])
        expected += (1 - gate)[column] * (own + i_bias[column])
        close(y[-1].detach(), expected.cpu(), 2e-2, "y")
        return
    exact = [t.detach().double().requires_grad_() for t in (x, *parameters)]
    expected = batch_instance_norm(*exact, form="plain")
    tolerance = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    close(y.detach(), expected.detach().cpu(), tolerance, "y")
    of_all = torch.autograd.grad(expected, exact, incoming.double())
    for name, one, other in zip(NAMES, found, of_all, strict=True):
        close(one, other.cpu(), 10 * tolerance, name)


def test_the_half_layer_goes_the_same_way() -> None:
    layer = HalfInstanceNorm2d(4).to(DEVICE)
    layer.form = "triton"
    x = torch.randn(3, 4, 5, 4, device=DEVICE)
    with Operators() as operators:
        y = layer(x)
    assert any("metabin" in name for name in operators.called)
    layer.form = "plain"
    torch.testing.assert_close(y, layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("asked", [(0,), (1,), (2, 3, 4, 5), (0, 2, 3, 4, 5), range(6)])
def test_gradients_are_computed_where_they_are_asked_for(asked, monkeypatch) -> None:
    launched = launches(monkeypatch)
    inputs = on_device(arguments((2, 3, 4, 4)), torch.contiguous_format, torch.float32)
    every = torch.autograd.grad(batch_instance_norm(*inputs, form="triton").pow(3).sum(), inputs)
    for number, tensor in enumerate(inputs):
        tensor.requires_grad_(number in asked)
    y = batch_instance_norm(*inputs, form="triton")
    launched.clear()
    found = torch.autograd.grad(y.pow(3).sum(), [inputs[number] for number in asked])
    for one, number in zip(found, asked, strict=True):
        assert torch.equal(one, every[number])
    assert launched == ["sums", "gradients", "combination"][: 3 if 0 in asked else 2]


def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that are launched from now on."""
    launched: list[str] = []
    kernels = form._kernels()

    class Listed:
        def __getattr__(self, name: str) -> object:
            class Launcher:
                def __getitem__(self, grid: object) -> object:
                    launched.append(name)
                    return getattr(kernels, name)[grid]

            return Launcher()

    monkeypatch.setattr(form, "_kernels", Listed)
    return launched


@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_layer_is_few_launches(memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = launches(monkeypatch)
    layer = BatchInstanceNorm2d(3).to(DEVICE)
    layer.form = "triton"
    nn.init.constant_(layer.gate, 0.5)
    x = torch.randn(2, 3, 4, 4, device=DEVICE).to(memory_format=memory_format).requires_grad_()
    with Operators() as operators:
        y = layer(x)
    assert launched == ["statistics", "coefficients", "normalize"]
    assert layer.num_batches_tracked == 1
    forward = len(operators.called) - 1 + len(launched)
    launched.clear()
    with Operators() as operators:
        torch.autograd.grad(y, [x, *layer.parameters()], torch.ones_like(y))
    assert launched == ["sums", "gradients", "combination"]
    backward = [name for name in operators.called if "ones_like" not in name]
    assert forward + len(backward) - 1 + len(launched) <= 8

    launched.clear()
    layer.eval()
    with torch.no_grad(), Operators() as operators:
        layer(x)
    assert launched == ["statistics", "infer"]
    assert len(operators.called) - 1 + len(launched) <= 3


def test_no_operator_of_pytorch_hides_in_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, *rest = on_device(arguments((2, 3, 4, 4)), torch.contiguous_format, torch.float32)

    class Kernels:
        def __getattr__(self, _name: str) -> object:
            class Launcher:
                def __getitem__(self, _grid: object) -> object:
                    return lambda *_args, **_kwargs: None

            return Launcher()

    monkeypatch.setattr(form, "_kernels", Kernels)
    statistics = [torch.zeros(3, device=DEVICE), torch.ones(3, device=DEVICE)]
    counter = torch.zeros((), dtype=torch.int64, device=DEVICE)
    with torch.no_grad(), Operators() as operators:
        _, instance, batch = form._forward(x, *rest, *statistics, counter, True, 0.1, 1e-5)
        form._evaluate(x, *rest, *statistics, 1e-5)
        form._backward(x, x, instance, batch, *rest, True, 1e-5, True)
    assert operators.called == []


@pytest.mark.parametrize("memory_format", FORMATS)
def test_keeps_what_batch_normalization_keeps(memory_format) -> None:
    x = torch.randn(4, 8, 32, 16, device=DEVICE).to(memory_format=memory_format).requires_grad_()
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    totals = []
    own = BatchInstanceNorm2d(8).to(DEVICE)
    own.form = "triton"
    for layer in (own, nn.BatchNorm2d(8).to(DEVICE)):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            layer(x)
        totals.append(sum(kept))
    assert totals[0] <= 1.05 * totals[1]


def test_the_operators_keep_what_pytorch_asks_of_one() -> None:
    leaves = on_device(arguments((2, 3, 4, 5)), torch.contiguous_format, torch.float32)
    statistics = [torch.zeros(3, device=DEVICE), torch.ones(3, device=DEVICE)]
    operators = torch.ops.metabin
    counter = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for running in ([*statistics, counter], [None, None, None]):
        opcheck(operators.batch_instance_norm.default, (*leaves, *running, True, 0.1, 1e-5))
    constants = [t.detach() for t in leaves]
    opcheck(operators.batch_instance_norm_inference.default, (*constants, *statistics, 1e-5))
    x = constants[0]
    instance = torch.stack([x.mean((2, 3)), x.var((2, 3))])
    given = (x, x, instance, torch.stack(statistics), *constants[1:], True, 1e-5)
    for needs_x in (True, False):
        opcheck(
            operators.batch_instance_norm_backward.default,
            (*given, needs_x),
            # It has no derivative of its own.
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("training", [True, False])
def test_compiles_into_one_graph_with_one_operator(training: bool) -> None:
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        layer = BatchInstanceNorm2d(3).to(DEVICE)
        layer.form = "triton"
        nn.init.constant_(layer.gate, 0.3)
        return nn.Sequential(layer, nn.ReLU(inplace=True)).train(training)

    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, _inputs: object) -> object:
        graphs.append(str(graph.code))
        return graph.forward

    network, reference = build(), build()
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend=keep)
    x = torch.randn(2, 3, 4, 5, device=DEVICE)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    compiled(one).square().sum().backward()
    reference(other).square().sum().backward()
    assert torch.equal(one.grad, other.grad)
    assert torch.equal(network[0].running_var, reference[0].running_var)
    assert sum(code.count("torch.ops.metabin.batch_instance_norm") for code in graphs) == 1


def test_an_exported_network_has_the_operator() -> None:
    layer = BatchInstanceNorm2d(3).to(DEVICE).eval()
    layer.form = "triton"
    nn.init.constant_(layer.gate, 0.3)
    x = torch.randn(2, 3, 4, 5, device=DEVICE)
    with torch.no_grad():
        program = torch.export.export(layer, (x,))
        names = [str(node.target) for node in program.graph.nodes]
        assert names.count("metabin.batch_instance_norm_inference.default") == 1
        assert torch.equal(program.module()(x), layer(x))


def test_is_differentiable_twice() -> None:
    found = []
    for name in ("triton", "plain"):
        inputs = on_device(arguments((2, 3, 4, 4)), torch.contiguous_format, torch.float32)
        y = batch_instance_norm(*inputs, form=name)
        (of_gate,) = torch.autograd.grad(y.pow(3).sum(), inputs[1], create_graph=True)
        found.append(torch.autograd.grad(of_gate.sum(), inputs))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_every_kernel_compiles_for_gpus_without_one(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kernel_compilation.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(script), *["--all"] * EXHAUSTIVE],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= (200 if EXHAUSTIVE else 20)
