"""Styles drawn from those of a batch."""

from __future__ import annotations

import torch

from metabin_plugin.style import draw_styles, instance_statistics


def maps(count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(count, 3, 1, 1, generator=generator) + 1
    return torch.randn(count, 3, 8, 4, generator=generator) * scales + 5 * scales


def test_each_is_within_reach_and_fills_it() -> None:
    statistics = instance_statistics(maps())
    torch.manual_seed(0)
    drawn = [draw_styles(*statistics, 2.0) for _ in range(300)]
    for own, values in zip(statistics, zip(*drawn, strict=True), strict=True):
        found = torch.stack(values)
        for channel in range(3):
            column = own[:, channel].flatten().tolist()
            average = sum(column) / len(column)
            spread = (sum((v - average) ** 2 for v in column) / (len(column) - 1)) ** 0.5
            away = (found[:, :, channel] - average) / (2 * spread)
            assert found.shape[1:] == own.shape
            assert away.abs().max() <= 1 + 1e-5
            # 1800 uniform numbers.
            assert away.min() < -0.98 and away.max() > 0.98 and away.mean().abs() < 0.1


def test_images_and_channels_draw_apart() -> None:
    mean, std = draw_styles(*instance_statistics(maps()), 3.0)
    for values in (mean, std):
        assert len({*values.flatten().tolist()}) == 18


def test_without_reach_all_get_the_average_style() -> None:
    own_mean, own_std = instance_statistics(maps())
    mean, std = draw_styles(own_mean, own_std, 0.0)
    torch.testing.assert_close(mean, own_mean.mean(0, keepdim=True).expand_as(mean))
    torch.testing.assert_close(std, own_std.mean(0, keepdim=True).expand_as(std))


def test_no_deviation_is_negative_and_one_image_keeps_its_style() -> None:
    assert draw_styles(*instance_statistics(maps()), 100.0)[1].min() == 0
    own = instance_statistics(maps(1))
    for drawn, value in zip(draw_styles(*own, 3.0), own, strict=True):
        torch.testing.assert_close(drawn, value)
