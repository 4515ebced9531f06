"""What the forms of the layer promise beyond equal results, which test_functional.py checks."""

from __future__ import annotations

import subprocess
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.layer import saved_bytes
from metabin_plugin.errors import NormError
from metabin_plugin.norm import (
    NORM_FORMS,
    BatchInstanceNorm2d,
    batch_instance_norm,
    set_norm_form,
    triton_form,
)
from metabin_plugin.norm.batch_instance_norm import choose_form
from tests.norm.operators import Operators
from tests.norm.oracle import bin_by_loops, random_arguments

FORMATS = (torch.contiguous_format, torch.channels_last)
IN_PASSES = ("native", "triton")


def gradients(form: str, x: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
    y = batch_instance_norm(x, *parameters, form=form)
    # Values that all types have.
    weights = torch.linspace(-1, 1, y.numel()).bfloat16().view(y.shape).to(y.dtype)
    wanted = [t for t in (x, *parameters) if t.requires_grad]
    return torch.autograd.grad((y * weights).sum(), wanted)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("form", IN_PASSES)
def test_saves_what_batch_normalization_saves(form: str, memory_format) -> None:
    x = torch.randn(4, 8, 32, 16).to(memory_format=memory_format).requires_grad_()
    layer = BatchInstanceNorm2d(8)
    layer.form = form
    assert saved_bytes(layer, x) <= 1.05 * saved_bytes(nn.BatchNorm2d(8), x)


@pytest.mark.parametrize("form", NORM_FORMS)
def test_an_activation_in_place_may_follow(form: str) -> None:
    inputs = random_arguments((2, 3, 4, 4))
    expected = torch.autograd.grad(bin_by_loops(*inputs).relu().square().sum(), inputs)
    y = batch_instance_norm(*inputs, form=form)
    actual = torch.autograd.grad(nn.functional.relu(y, inplace=True).square().sum(), inputs)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("form", IN_PASSES)
def test_an_expanded_gradient_is_taken(form: str, memory_format) -> None:
    inputs = random_arguments((3, 2, 4, 2))
    inputs[0] = inputs[0].detach().to(memory_format=memory_format).requires_grad_()
    expected = torch.autograd.grad(bin_by_loops(*inputs).sum(), inputs)
    actual = torch.autograd.grad(batch_instance_norm(*inputs, form=form).sum(), inputs)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("form", IN_PASSES)
def test_a_map_in_no_memory_format_is_taken(form: str) -> None:
    x, *parameters = random_arguments((3, 2, 4, 6))
    expected = bin_by_loops(x.transpose(2, 3)[:, :, ::2], *parameters)
    actual = batch_instance_norm(x.transpose(2, 3)[:, :, ::2], *parameters, form=form)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    (one,) = torch.autograd.grad(actual.square().sum(), [x])
    (other,) = torch.autograd.grad(expected.square().sum(), [x])
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("form", IN_PASSES)
def test_gradients_of_the_gates_alone(form: str) -> None:
    x, gate, *rest = random_arguments((3, 2, 4, 4))
    rest = [t.detach() for t in rest]
    (expected,) = gradients("plain", x.detach(), gate, *rest)
    (actual,) = gradients(form, x.detach(), gate, *rest)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("form", IN_PASSES)
def test_gradients_under_autocast(form: str, memory_format) -> None:
    inputs = random_arguments((4, 3, 16, 8), dtype=torch.float32)
    narrow = inputs[0].detach().bfloat16().to(memory_format=memory_format).requires_grad_()
    inputs[0] = narrow
    exact = gradients("plain", *(t.detach().double().requires_grad_() for t in inputs))
    with torch.autocast("cpu", torch.bfloat16):
        actual = gradients(form, *inputs)
    for one, other in zip(actual, exact, strict=True):
        assert (one.double() - other).abs().max() < 2e-2 * other.abs().max()
    assert actual[0].dtype == torch.bfloat16


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("form", IN_PASSES)
def test_one_bright_pixel_does_not_drown_the_others(form: str, memory_format) -> None:
    x, *parameters = random_arguments((4, 2, 32, 16), dtype=torch.float32)
    x = x.detach().contiguous(memory_format=memory_format)
    x[:, :, 0, 0] = 1e4
    exact = batch_instance_norm(x.double(), *(p.double() for p in parameters), form="plain")
    actual = batch_instance_norm(x, *parameters, form=form)
    torch.testing.assert_close(actual.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 3, 16, 8), (2, 3, 128, 64)])
@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0])
def test_bfloat16_loses_no_more_than_it_is_rounded(mean: float, shape) -> None:
    x, *parameters = (t.detach() for t in random_arguments(shape, dtype=torch.float32))
    x = (x + mean).bfloat16()
    # Without a deviation there is nothing but rounding, which must not be made large.
    x[0, 0] = mean + 0.3
    exact = batch_instance_norm(x.double(), *(p.double() for p in parameters), form="plain")
    actual = batch_instance_norm(x, *parameters, form="native")
    assert (actual.double() - exact).abs().max() < 1e-2 * exact.abs().max()


@pytest.mark.parametrize(
    ("form", "device", "interprets", "chosen"),
    [
        ("auto", "cpu", True, "native"),
        ("plain", "cpu", True, "plain"),
        ("native", "cpu", False, "native"),
        ("triton", "cpu", True, "triton"),
        ("triton", "cpu", False, None),
        ("auto", "meta", True, "plain"),
        ("native", "meta", True, None),
        ("triton", "meta", True, None),
    ],
)
def test_the_form_is_chosen_by_device(form, device, interprets, chosen, monkeypatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1" if interprets else "0")
    x = torch.zeros(2, 3, 4, 4, device=device)
    if chosen is None:
        with pytest.raises(NormError, match=f"no {form} form on {device}; choose 'auto'"):
            choose_form(form, x)
    else:
        assert choose_form(form, x) == chosen


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler"),
        # Without Python's headers.
        subprocess.CalledProcessError(1, ["gcc", "cuda_utils.c"]),
        PermissionError(13, "Permission denied", "/home/nobody/.triton"),
    ],
)
def test_a_gpu_for_which_triton_compiles_nothing_takes_the_plain_form(error, monkeypatch) -> None:
    def fails(*_arguments: object, **_constants: object) -> None:
        raise error

    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(triton_form, "_HAS_TRITON", True)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: nullcontext())
    kernels = SimpleNamespace(normalize=SimpleNamespace(warmup=fails))
    monkeypatch.setattr(triton_form, "_kernels", lambda: kernels)
    triton_form.fault_on.cache_clear()
    x = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.float32)
    try:
        assert choose_form("auto", x) == "plain"
        with pytest.raises(NormError, match=rf"on cuda:0 \({type(error).__name__}: .*\); choose"):
            choose_form("triton", x)
    finally:
        triton_form.fault_on.cache_clear()


def test_what_a_kernel_cannot_do_takes_the_plain_form() -> None:
    x = torch.zeros(2, 3, 4, 4)
    assert choose_form("triton", x.double()) == "plain"
    assert choose_form("triton", x, several=True) == "plain"
    assert choose_form("native", x, several=True) == "plain"


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(NormError, match="no form 'fast'"):
        set_norm_form(BatchInstanceNorm2d(4), "fast")


@pytest.mark.parametrize("form", IN_PASSES)
def test_functional_transforms_and_export_take_the_plain_form(form: str) -> None:
    x, *parameters = (t.detach() for t in random_arguments((3, 2, 4, 4)))

    def loss(gate: torch.Tensor) -> torch.Tensor:
        return batch_instance_norm(x, gate, *parameters[1:], form=form).pow(3).sum()

    gate = parameters[0].requires_grad_()
    (expected,) = torch.autograd.grad(loss(gate), [gate])
    torch.testing.assert_close(torch.func.grad(loss)(gate.detach()), expected)
    layer = BatchInstanceNorm2d(2).double().eval()
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))


def test_a_backward_pass_in_evaluation_outlives_later_training() -> None:
    torch.manual_seed(0)
    layer = BatchInstanceNorm2d(3).double()
    with torch.no_grad():
        layer.gate.fill_(0.5)
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(layer.eval()(x).pow(3).sum(), [x])
    y = layer(x)
    layer.train()(x.detach() * 9 + 5)
    (actual,) = torch.autograd.grad(y.pow(3).sum(), [x])
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["auto", "plain", "native"])
def test_gates_of_1_cost_no_statistics_in_evaluation(form: str) -> None:
    layer = BatchInstanceNorm2d(3).eval()
    set_norm_form(layer, form)
    x = torch.randn(4, 3, 8, 4)
    with torch.no_grad():
        layer.running_mean.normal_()
        layer.weight.normal_()
    expected = nn.functional.batch_norm(
        x, layer.running_mean, layer.running_var, layer.weight, layer.bias
    )
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        with Operators() as closed:
            torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
        layer.gate[0] = 0.5
        with Operators() as opened:
            layer(x)
    assert len(closed.called) < len(opened.called)
    assert sum("norm" in name for name in closed.called) == 1


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("form", ["auto", "plain", "native"])
def test_a_trace_computes_the_same(form: str, with_gradients: bool, training: bool) -> None:
    layer = BatchInstanceNorm2d(4).train(training)
    layer.form = form
    nn.init.uniform_(layer.gate)
    nn.init.uniform_(layer.running_mean)
    nn.init.uniform_(layer.running_var, 0.5, 2)
    with torch.set_grad_enabled(with_gradients):
        # It compares its own records of two runs.
        traced = torch.jit.trace(layer, torch.randn(3, 4, 5, 2))
        x = torch.randn(6, 4, 3, 3)
        torch.testing.assert_close(traced(x), layer(x))
