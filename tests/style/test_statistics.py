"""Statistics and changes of style, against loops over images and channels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metabin_plugin.style import instance_statistics, restyle


def _map(seed: int = 0, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, 5, 2, generator=generator, dtype=torch.float64) * 3 + offset


def _style_of(channel: Tensor) -> tuple[float, float]:
    pixels = channel.flatten().tolist()
    mean = sum(pixels) / len(pixels)
    return mean, math.sqrt(sum((pixel - mean) ** 2 for pixel in pixels) / len(pixels))


def test_statistics_are_those_of_all_pixels_of_a_channel() -> None:
    x = _map()
    mean, std = instance_statistics(x)
    assert mean.shape == std.shape == (3, 4, 1, 1)
    for image in range(3):
        for channel in range(4):
            expected = _style_of(x[image, channel])
            found = mean[image, channel].item(), std[image, channel].item()
            assert found == pytest.approx(expected, abs=1e-6)


def test_a_restyled_map_has_the_new_style_and_the_old_pattern() -> None:
    x = _map(offset=2.0)
    new_mean, new_std = instance_statistics(_map(seed=1, offset=-1.0))
    y = restyle(x, new_mean, new_std)
    for image in range(3):
        for channel in range(4):
            own_mean, own_std = _style_of(x[image, channel])
            factor = new_std[image, channel].item() / own_std
            expected = (x[image, channel] - own_mean) * factor + new_mean[image, channel]
            torch.testing.assert_close(y[image, channel], expected, rtol=0, atol=1e-6)


def test_its_own_style_changes_nothing() -> None:
    x = _map(offset=1e4)
    torch.testing.assert_close(restyle(x, *instance_statistics(x)), x, rtol=0, atol=1e-10)


def test_the_own_style_is_a_constant_in_the_gradient() -> None:
    x = _map().requires_grad_()
    mean, std = (tensor.requires_grad_() for tensor in instance_statistics(_map(seed=1)))
    weights = _map(seed=2)
    by_map, by_mean, by_std = torch.autograd.grad(
        (restyle(x, mean, std) * weights).sum(), (x, mean, std)
    )
    for image in range(3):
        for channel in range(4):
            own_mean, own_std = _style_of(x[image, channel].detach())
            own_weights = weights[image, channel]
            ratio = std[image, channel].item() / own_std
            torch.testing.assert_close(
                by_map[image, channel], own_weights * ratio, atol=1e-5, rtol=0
            )
            assert by_mean[image, channel].item() == pytest.approx(own_weights.sum().item())
            normal = (x[image, channel].detach() - own_mean) / own_std
            expected = (own_weights * normal).sum().item()
            assert by_std[image, channel].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x = _map(offset=100.0).to(dtype)
    mean, std = instance_statistics(x)
    assert mean.dtype == std.dtype == torch.float32
    exact_mean, exact_std = instance_statistics(x.double())
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(std.double(), exact_std, rtol=1e-4, atol=1e-6)
    assert restyle(x, mean, std).dtype == dtype


def test_a_channel_of_one_value_or_one_pixel_is_finite() -> None:
    for x in (torch.ones(2, 3, 4, 4), torch.ones(2, 3, 1, 1)):
        mean, std = instance_statistics(x)
        assert torch.equal(restyle(x, mean + 1, std), torch.full_like(x, 2.0))
