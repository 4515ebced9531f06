"""Half-precision convolutions that a device computes wrongly are found, and sound ones are not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from metabin_plugin.engine.half_precision import Convolution, convolutions_of, fault_of

CPU = torch.device("cpu")
PARTS = ("output", "input gradient", "weight gradient")
HALF = (torch.float16, torch.bfloat16)

Change = Callable[[Tensor], Tensor]


def with_first(value: float) -> Change:
    def change(values: Tensor) -> Tensor:
        changed = values.clone()
        changed[(0,) * changed.dim()] = value
        return changed

    return change


def shifted(values: Tensor) -> Tensor:
    """One number off by a tenth of the largest one."""
    return with_first(float(values.flatten()[0] + 0.1 * values.abs().max()))(values)


CHANGES: dict[str, Change] = {
    "NaN": with_first(float("nan")),
    "huge": with_first(1e36),
    "a number off": shifted,
    "an image or channel lacking": lambda values: torch.cat([values[:1] * 0, values[1:]]),
    "too small": lambda values: 0.9 * values,
    "in another order": lambda values: values.flip(-1, -2),
}


def wrong_convolution(part: str, change: Change) -> Callable[..., Tensor]:
    """``F.conv2d`` as it is now, but one part wrong in half precision on tiny maps."""
    sound = F.conv2d

    def conv2d(x: Tensor, weight: Tensor, *others: Any, **settings: Any) -> Tensor:
        if x.dtype not in HALF or x.shape[2] > 4:
            return sound(x, weight, *others, **settings)
        if part == "input gradient" and x.requires_grad:
            x = x.view_as(x)
            x.register_hook(change)
        if part == "weight gradient" and weight.requires_grad:
            weight = weight.view_as(weight)
            weight.register_hook(change)
        output = sound(x, weight, *others, **settings)
        # As a kernel does: the gradients are those of the right output.
        return output + (change(output.detach()) - output.detach()) if part == "output" else output

    return conv2d


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    fault_of.cache_clear()
    yield
    fault_of.cache_clear()


def convolution(size: int = 4, groups: int = 1, **changes: Any) -> Convolution:
    """A 3x3 convolution, stride 2, of 8 to 16 channels on maps of ``size`` x ``size`` / 2."""
    values: dict[str, Any] = {
        "input": (8, size, size // 2),
        "output": (16, size // 2, size // 4),
        "kernel": (3, 3),
        "stride": (2, 2),
        "padding": (1, 1),
        "dilation": (1, 1),
        "channels_last": False,
        "input_gradient": True,
    }
    return Convolution(groups=groups, **values | changes)


class Rounded(torch.autograd.Function):
    """A convolution as a sound device computes it in half precision: exactly, then rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, settings: dict[str, Any]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        return F.conv2d(x.double(), weight.double(), **settings).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = (saved.detach().double().requires_grad_() for saved in ctx.saved_tensors)
        with torch.enable_grad():
            output = F.conv2d(x, weight, **ctx.settings)
        of_x, of_weight = torch.autograd.grad(output, (x, weight), gradient.double())
        return of_x.to(gradient.dtype), of_weight.to(gradient.dtype), None


@contextmanager
def sound_device() -> Iterator[None]:
    """A device whose half-precision kernels are right, whatever this machine's are."""
    sound = F.conv2d

    def conv2d(x: Tensor, weight: Tensor, *others: Any, **settings: Any) -> Tensor:
        if x.dtype in HALF:
            return Rounded.apply(x, weight, settings)
        return sound(x, weight, *others, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", conv2d)
        fault_of.cache_clear()
        yield
    fault_of.cache_clear()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("part", PARTS)
def test_wrong_numbers_are_found(
    part: str, change: Change, groups: int, channels_last: bool
) -> None:
    with sound_device(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", wrong_convolution(part, change))
        kind = convolution(groups=groups, channels_last=channels_last)
        fault = fault_of(kind, 12, CPU, torch.bfloat16)
        assert fault is not None and fault.startswith(f"{part} off by ")
        assert fault_of(convolution(32), 12, CPU, torch.bfloat16) is None


def test_a_gradient_that_training_does_not_need_is_not_compared() -> None:
    with sound_device(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", wrong_convolution("input gradient", CHANGES["NaN"]))
        assert fault_of(convolution(input_gradient=False), 12, CPU, torch.bfloat16) is None


@settings(max_examples=60)
@given(
    channels=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 3),
    depthwise=st.booleans(),
    images=st.integers(1, 80),
    dtype=st.sampled_from(HALF),
    channels_last=st.booleans(),
)
def test_rounding_is_no_fault(
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: int,
    stride: int,
    depthwise: bool,
    images: int,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    channels = (channels[0], channels[0]) if depthwise else channels
    kind = convolution(
        groups=channels[0] if depthwise else 1,
        input=(channels[0], *size),
        output=(channels[1], *((pixels - 1) // stride + 1 for pixels in size)),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2, kernel // 2),
        channels_last=channels_last,
    )
    with sound_device():
        assert fault_of(kind, images, CPU, dtype) is None


@pytest.mark.parametrize("threads", [1, 2])
def test_random_states_and_gradients_are_left_alone(threads: int) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with torch.no_grad():
        fault_of(convolution(32), threads, CPU, torch.bfloat16)
        assert not torch.is_grad_enabled()
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == states


def test_each_kind_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    sound = F.conv2d

    def conv2d(x: Tensor, *others: Any, **settings: Any) -> Tensor:
        calls.append(x.shape)
        return sound(x, *others, **settings)

    monkeypatch.setattr(F, "conv2d", conv2d)
    for size in (32, 32, 64):
        fault_of(convolution(size), 12, CPU, torch.bfloat16)
    assert [shape[2] for shape in calls] == [32, 32, 64, 64]


def test_small_maps_are_tried_on_many_images_and_large_ones_on_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = []
    sound = F.conv2d

    def conv2d(x: Tensor, *others: Any, **settings: Any) -> Tensor:
        images.append(len(x))
        return sound(x, *others, **settings)

    monkeypatch.setattr(F, "conv2d", conv2d)
    wide = {"input": (64, 256, 128), "output": (64, 128, 64)}
    for kind, batch in ((convolution(), 12), (convolution(), 80), (convolution(**wide), 80)):
        fault_of(kind, batch, CPU, torch.bfloat16)
    assert images[::2] == [12, 16, 1]


class Net(nn.Module):
    """Two convolutions of one kind, one of another, and one that stays in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
        self.exact = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        with torch.autocast("cpu", enabled=False):
            return self.exact(x.float())


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_networks_convolutions_are_found(channels_last: bool) -> None:
    net, image = Net(), torch.rand(1, 3, 32, 16)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        found = convolutions_of(net, lambda: net(image))
    assert list(found.values()) == ["stem", "blocks.0"]
    stem, block = found
    assert stem == convolution(
        input=(3, 32, 16),
        output=(4, 16, 8),
        input_gradient=False,
        channels_last=channels_last,
    )
    assert (block.input, block.stride, block.input_gradient) == ((4, 16, 8), (1, 1), True)
    assert str(stem) == "3x3 convolution of 3 to 4 channels, stride 2, on maps of 32x16"
    assert not any(layer._forward_hooks for layer in net.modules())
    assert convolutions_of(net, lambda: net(image)) == {}
