"""The second view of the training images: exact, and nothing to the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metabin_plugin.data import build_reid_train_loader
from metabin_plugin.data.build import strong_view
from metabin_plugin.data.images import read_rgb
from tests.engine.tiny_data import tiny_config

LOSSES = ["METABIN.BASE_LOSSES", '("Alignment",)']
AUGMENTED = ["INPUT.FLIP.ENABLED", "True", "INPUT.PADDING.ENABLED", "True"]


def batches(folder: Path, *options: str, skip: int = 0, count: int = 3) -> list[dict[str, Any]]:
    stream = iter(build_reid_train_loader(tiny_config(folder, *AUGMENTED, *options)))
    stream.load_state_dict({**stream.state_dict(), "position": skip})
    found = [next(stream) for _ in range(count)]
    stream.close()
    return found


def test_the_first_view_is_as_without_the_second(tmp_path: Path) -> None:
    for with_two, with_one in zip(batches(tmp_path, *LOSSES), batches(tmp_path), strict=True):
        assert {*with_two} - {*with_one} == {"images_strong"}
        assert torch.equal(with_two["images"], with_one["images"])
        assert with_two["images_strong"].shape == with_two["images"].shape
        assert not torch.equal(with_two["images_strong"], with_two["images"])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_neither_workers_nor_a_pause_change_it(tmp_path: Path, workers: str) -> None:
    straight = batches(tmp_path, *LOSSES, count=5)
    other = [*LOSSES, "DATALOADER.NUM_WORKERS", workers]
    resumed = batches(tmp_path, *other, skip=2)
    for one, again in zip(straight[2:], resumed, strict=True):
        assert torch.equal(one["images"], again["images"])
        assert torch.equal(one["images_strong"], again["images_strong"])


def views(folder: Path, probability: float, *options: str) -> list[Tensor]:
    cfg = tiny_config(folder, *options, "METABIN.STRONG_VIEW.PROB", str(probability))
    image = read_rgb(str(folder / "source0" / "0_0.png"))
    transform = strong_view(cfg)
    return [transform(image) for _ in range(20)]


def test_probability_is_that_of_the_augmentation(tmp_path: Path) -> None:
    never = views(tmp_path, 0.0)
    assert all(torch.equal(view, never[0]) for view in never)
    always = views(tmp_path, 1.0)
    assert not any(torch.equal(view, never[0]) for view in always)
    for view in always:
        assert view.shape == never[0].shape
        assert view.min() >= 0 and view.max() <= 255


def test_what_is_erased_is_the_mean_pixel(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path)
    mean = torch.tensor(cfg.MODEL.PIXEL_MEAN)[:, None, None]
    found = [(view == mean).all(dim=0).float().mean() for view in views(tmp_path, 1.0)]
    assert all(share > 0.01 for share in found)


def test_augmentation_of_the_first_view_is_not_in_it(tmp_path: Path) -> None:
    keys = ("CJ", "REA", "AUTOAUG", "AUGMIX")
    options = [word for key in keys for word in (f"INPUT.{key}.ENABLED", "True")]
    options += ["INPUT.CJ.PROB", "1.0", "INPUT.REA.PROB", "1.0"]
    assert torch.equal(views(tmp_path, 0.0, *options)[0], views(tmp_path, 0.0)[0])
