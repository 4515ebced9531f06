from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from metabin_plugin.norm import batch_instance_norm
from tests.norm.oracle import bin_by_loops, random_arguments

FORMATS = (torch.contiguous_format, torch.channels_last)
MODES = ("train", "eval", "hold")
SHAPES = ((2, 3, 3, 2), (1, 2, 2, 3), (3, 2, 1, 4), (3, 2, 4, 1))
FORMS = ("plain", "native")


def statistics(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.linspace(-1, 1, channels, dtype=torch.float64)
    return mean, torch.linspace(0.5, 2, channels, dtype=torch.float64)


def run(mode: str, *inputs: torch.Tensor, form: str = "auto") -> torch.Tensor:
    running = (None, None) if mode == "hold" else statistics(inputs[1].shape[0])
    return batch_instance_norm(*inputs, *running, training=mode != "eval", form=form)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition(shape: tuple[int, int, int, int], mode: str, form, memory_format):
    inputs = random_arguments(shape)
    inputs[0] = inputs[0].detach().to(memory_format=memory_format).requires_grad_()
    running = statistics(shape[1]) if mode == "eval" else None
    expected = bin_by_loops(*inputs, running=running)
    actual = run(mode, *inputs, form=form)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    incoming = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        torch.autograd.grad(actual, inputs, incoming),
        torch.autograd.grad(expected, inputs, incoming),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_is_twice_differentiable_in_every_argument(check, mode, form, memory_format) -> None:
    x, *parameters = random_arguments((2, 2, 4, 2))
    x = x.detach().to(memory_format=memory_format).requires_grad_()
    assert check(lambda *inputs: run(mode, *inputs, form=form), (x, *parameters))


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_one_pixel_is_twice_differentiable(check) -> None:
    x, _, weight, bias, *_ = random_arguments((4, 2, 1, 1))
    rest = [t.detach() for t in random_arguments((4, 2, 1, 1))]

    def one_pixel(x, weight, bias):
        return batch_instance_norm(x, rest[1], weight, bias, rest[4], rest[5])

    assert check(one_pixel, (x, weight, bias))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_keeps_shape_and_memory_format(mode: str, form: str, memory_format) -> None:
    x, *parameters = random_arguments((2, 3, 4, 5))
    x = x.detach().to(memory_format=memory_format).requires_grad_()
    y = run(mode, x, *parameters, form=form)
    assert y.shape == x.shape
    assert y.is_contiguous(memory_format=memory_format)
    y.sum().backward()
    assert x.grad.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float32, 1e-6)]
)
# On a CPU another kernel takes the statistics of large planes.
@pytest.mark.parametrize("size", [(16, 8), (32, 16)])
def test_narrow_types_only_round_input_and_output(
    size, dtype, tolerance, mode, form, memory_format
) -> None:
    inputs = random_arguments((4, 3, *size))
    narrow = [t.detach().to(dtype) for t in inputs]
    narrow[0] = narrow[0].contiguous(memory_format=memory_format)
    # Variances of half-precision features would overflow in half precision.
    narrow[0] = narrow[0] * 1000
    exact = run(mode, *(t.double() for t in narrow))
    actual = run(mode, *narrow, form=form)
    assert actual.dtype == dtype
    assert ((actual.double() - exact).abs().max() / exact.abs().max()) < tolerance


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("form", FORMS)
def test_large_means_do_not_cancel(form: str, memory_format: torch.memory_format) -> None:
    x, *parameters = random_arguments((8, 2, 16, 8), dtype=torch.float32)
    x = (x.detach() + 1e4).contiguous(memory_format=memory_format)
    actual = batch_instance_norm(x, *parameters, form=form)
    exact = batch_instance_norm(x.double(), *(p.double() for p in parameters))
    # float32 represents values near 1e4 in steps of 1e-3, in units of a deviation of 2.
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=3e-3)


def test_running_statistics_move_by_the_unbiased_batch_variance() -> None:
    inputs = random_arguments((3, 2, 4, 2))
    mean, var = statistics(2)
    old_mean, old_var = mean.clone(), var.clone()
    batch_instance_norm(*inputs, mean, var, momentum=0.25)
    values = inputs[0].detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, 0.75 * old_mean + 0.25 * values.mean(1))
    torch.testing.assert_close(var, 0.75 * old_var + 0.25 * values.var(1, correction=1))
    batch_instance_norm(*inputs, mean, var, training=False)
    torch.testing.assert_close(mean, 0.75 * old_mean + 0.25 * values.mean(1))


def test_one_pixel_is_batch_normalization() -> None:
    x, gate, weight, bias, *instance = random_arguments((5, 3, 1, 1))
    running, plain = statistics(3), statistics(3)
    actual = batch_instance_norm(x, gate, weight, bias, *instance, *running)
    expected = F.batch_norm(x, *plain, weight, bias, training=True)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    torch.testing.assert_close(running, plain, rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_gives_an_empty_map(training: bool, form: str) -> None:
    x, *parameters = random_arguments((2, 3, 4, 4))
    running, before = statistics(3), statistics(3)
    x = x.detach()[:0].requires_grad_()
    y = batch_instance_norm(x, *parameters, *running, training=training, form=form)
    (y.sum() + x.sum()).backward()
    assert y.shape == x.grad.shape == (0, 3, 4, 4)
    assert all(not p.grad.any() for p in parameters)
    torch.testing.assert_close(running, before, rtol=0, atol=0)


def test_constant_input_stays_finite() -> None:
    x, *parameters = random_arguments((2, 2, 3, 3))
    x = torch.full_like(x, 0.7).requires_grad_()
    y = batch_instance_norm(x, *parameters)
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


def test_refuses_what_is_no_feature_map() -> None:
    x, *parameters = random_arguments((2, 3, 4, 4))
    with pytest.raises(ValueError, match="4-D"):
        batch_instance_norm(x[0], *parameters)
    with pytest.raises(ValueError, match="one gate per channel"):
        batch_instance_norm(x, parameters[0][:1], *parameters[1:])
    with pytest.raises(ValueError, match="running statistics"):
        batch_instance_norm(x, *parameters, training=False)
