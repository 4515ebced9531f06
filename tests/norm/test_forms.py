"""What the forms of the layer promise beyond equal results, which test_functional.py checks."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from benchmarks.layer_arms import saved_bytes
from metabin_plugin.errors import NormError
from metabin_plugin.norm import (
    NORM_FORMS,
    BatchInstanceNorm2d,
    batch_instance_norm,
    compiled_passes,
    forms,
    set_norm_form,
)
from tests.norm.oracle import bin_by_loops, random_arguments

FORMATS = (torch.contiguous_format, torch.channels_last)
COMPILED = pytest.param("compiled", marks=pytest.mark.slow)
IN_PASSES = ("eager", COMPILED)
IN_FORMS = [COMPILED if form == "compiled" else form for form in NORM_FORMS]
# Height, width and channels of MobileNetV2 x1.4 at 256 x 128, a quarter as large.
LAYERS = ((32, 16, 44), (32, 16, 22), (16, 8, 132), (8, 4, 198), (4, 2, 537), (4, 2, 1792))


@pytest.fixture
def no_compiler(monkeypatch):
    def fails(_x):
        raise RuntimeError("no compiler was found")

    monkeypatch.setattr(
        compiled_passes, "COMPILED_PASSES", forms.COMPILED_PASSES._replace(statistics=fails)
    )
    forms.can_compile.cache_clear()
    yield
    forms.can_compile.cache_clear()


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


@pytest.mark.parametrize("form", IN_FORMS)
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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_layers_and_batch_sizes_share_their_compiled_form(dtype: torch.dtype) -> None:
    forms.can_compile.cache_clear()
    torch.compiler.reset()
    network = nn.ModuleList(BatchInstanceNorm2d(channels) for _, _, channels in LAYERS)
    set_norm_form(network, "compiled")
    made = set()
    for memory_format in FORMATS:
        for batch in (5, 16, 10, 6):
            for training in (True, False):
                for layer, (height, width, channels) in zip(
                    network.train(training), LAYERS, strict=True
                ):
                    x = torch.randn(batch, channels, height, width)
                    x = x.to(dtype, memory_format=memory_format).requires_grad_(training)
                    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
                        y = layer(x)
                    if training:
                        y.sum().backward()
                made.add(counters["stats"]["unique_graphs"])
    # All are compiled before the first batch of a memory format is through.
    assert len(made) == len(FORMATS)


@pytest.mark.parametrize(
    ("shape", "dtype", "memory_format", "compiles"),
    [
        ((16, 64, 64, 64), torch.float32, torch.contiguous_format, True),
        ((16, 64, 64, 32), torch.float32, torch.contiguous_format, False),
        ((16, 64, 64, 32), torch.float32, torch.channels_last, True),
        ((16, 64, 64, 32), torch.bfloat16, torch.contiguous_format, True),
        ((16, 64, 8, 4), torch.bfloat16, torch.channels_last, False),
        ((1, 64, 256, 256), torch.float32, torch.contiguous_format, False),
        ((16, 64, 64, 64), torch.float64, torch.contiguous_format, False),
    ],
)
def test_large_maps_are_compiled_and_small_ones_are_not(
    shape, dtype, memory_format, compiles, monkeypatch
) -> None:
    monkeypatch.setattr(forms, "can_compile", lambda *_kind: True)
    x = torch.zeros(shape, dtype=dtype).contiguous(memory_format=memory_format)
    chosen = forms.choose_form("auto", x, (torch.zeros(64), torch.ones(64)))
    assert (chosen.passes is forms.COMPILED_PASSES) == compiles


def test_without_a_compiler_it_runs_eagerly_and_says_so(no_compiler, caplog) -> None:
    x = torch.randn(16, 64, 32, 16).to(memory_format=torch.channels_last)
    with caplog.at_level(logging.WARNING):
        y = BatchInstanceNorm2d(64)(x)
        BatchInstanceNorm2d(64)(x)
    torch.testing.assert_close(y, nn.BatchNorm2d(64)(x), rtol=1e-4, atol=1e-4)
    (record,) = caplog.records
    assert "no compiler was found" in record.getMessage()


def test_a_form_that_was_asked_for_is_not_replaced(no_compiler) -> None:
    layer = BatchInstanceNorm2d(4)
    set_norm_form(layer, "compiled")
    with pytest.raises(NormError, match="form of BIN is 'compiled'"):
        layer(torch.randn(2, 4, 8, 4))


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(NormError, match="no form 'fast'"):
        set_norm_form(BatchInstanceNorm2d(4), "fast")


def test_functional_transforms_and_export_take_the_plain_form() -> None:
    x, *parameters = (t.detach() for t in random_arguments((3, 2, 4, 4)))

    def loss(gate: torch.Tensor) -> torch.Tensor:
        return batch_instance_norm(x, gate, *parameters[1:], form="eager").pow(3).sum()

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


@pytest.mark.parametrize("form", ["auto", "plain", "eager"])
def test_gates_of_1_cost_no_statistics_in_evaluation(form: str, monkeypatch) -> None:
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
    monkeypatch.delattr("metabin_plugin.norm.functional.choose_form")
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
        layer.gate[0] = 0.5
        with pytest.raises(NameError):
            layer(x)
