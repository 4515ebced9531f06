"""AugMining's kinds of augmentation."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from augmining.augmentations import AUGMENTATIONS, augmented_copies

FILL = (120.0, 116.0, 104.0)
NAMES = tuple(AUGMENTATIONS)


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 16, generator=torch.Generator().manual_seed(0)) * 255


def test_one_copy_of_each_image_and_kind_in_the_range_of_images() -> None:
    copies = augmented_copies(images(), NAMES, FILL)
    assert copies.shape == (3, len(NAMES), 3, 32, 16)
    assert copies.min() >= 0
    assert copies.max() <= 255.001


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_changes_every_image(name: str) -> None:
    copies = augmented_copies(images(), [name], FILL)[:, 0]
    assert ((copies - images()).abs().amax((1, 2, 3)) > 1).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"grey"}))
def test_each_copy_has_random_numbers_of_its_own(name: str) -> None:
    twice = images(1).expand(2, -1, -1, -1)
    first, second = augmented_copies(twice, [name], FILL)
    assert not torch.equal(first, second)


def test_grey_has_three_equal_channels() -> None:
    red, green, blue = augmented_copies(images(1), ["grey"], FILL)[0, 0]
    assert torch.equal(red, green)
    assert torch.equal(red, blue)


def test_what_is_erased_has_the_given_colour() -> None:
    white = torch.full((4, 3, 32, 16), 255.0)
    copies = augmented_copies(white, ["erase"], FILL)[:, 0]
    erased = copies[:, 0] < 254
    shares = erased.float().mean((1, 2))
    assert ((shares > 0.05) & (shares < 0.5)).all()
    assert torch.allclose(copies.movedim(1, -1)[erased], torch.tensor(FILL))


def test_they_depend_on_torchs_generator_alone_which_checkpoints_hold() -> None:
    states = random.getstate(), np.random.get_state()[1].tolist()
    torch.manual_seed(5)
    first = augmented_copies(images(), NAMES, FILL)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(5)
    assert torch.equal(augmented_copies(images(), NAMES, FILL), first)
    random.setstate(states[0])
    assert random.getstate() == states[0]


def test_images_stay_and_autocast_makes_no_difference() -> None:
    batch = images()
    torch.manual_seed(5)
    expected = augmented_copies(batch, NAMES, FILL)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augmented_copies(batch, NAMES, FILL), expected)
    assert torch.equal(batch, images())
