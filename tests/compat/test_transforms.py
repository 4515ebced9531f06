from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from fastreid.config import get_cfg
from fastreid.data.transforms import ToTensor, build_transforms
from PIL import Image


def test_random_affine_of_the_config_works():
    cfg = get_cfg()
    cfg.INPUT.SIZE_TRAIN = [16, 8]
    cfg.INPUT.AFFINE.ENABLED = True
    images = [build_transforms(cfg)(Image.new("RGB", (8, 16), "white")) for _ in range(20)]
    assert {image.shape for image in images} == {(3, 16, 8)}
    # Nearest neighbour on white: only white, and the filling of the corners.
    assert set(torch.stack(images).unique().tolist()) == {0.0, 255.0}


@pytest.mark.parametrize("name", ["AUTOAUG", "AUGMIX", "CJ"])
def test_strong_augmentations_depend_on_the_seeds_alone(name):
    cfg = get_cfg()
    cfg.INPUT.SIZE_TRAIN = [16, 8]
    cfg.INPUT[name].ENABLED = True
    cfg.INPUT[name].PROB = 1.0
    transform = build_transforms(cfg)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    changed = []
    # As many as reach each of AutoAugment's 25 policies, with both of its operations.
    for seed in range(300):
        twice = []
        for _ in range(2):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            twice.append(transform(Image.fromarray(pixels)))
        assert twice[0].shape == (3, 16, 8)
        assert twice[0].dtype is torch.float32
        assert torch.equal(*twice)
        changed.append(twice[0])
    assert len({image.numpy().tobytes() for image in changed}) > 20


def test_to_tensor_keeps_every_pixel_and_warns_of_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for picture in (pixels, Image.fromarray(pixels)):
            tensor = ToTensor()(picture)
            assert tensor.dtype is torch.float32
            assert tensor.is_contiguous()
            for row in range(4):
                for column in range(3):
                    assert tensor[:, row, column].tolist() == pixels[row, column].tolist()


@pytest.mark.parametrize(
    ("mode", "value", "dtype"),
    [
        ("L", 7, torch.float32),
        ("1", 255, torch.float32),
        ("I", 70000, torch.int32),
        ("I;16", 40000, torch.int32),
        ("F", 0.5, torch.float32),
    ],
)
def test_to_tensor_reads_single_channel_images(mode, value, dtype):
    tensor = ToTensor()(Image.new(mode, (3, 2), value))
    assert tensor.shape == (1, 2, 3)
    assert tensor.dtype is dtype
    assert tensor.unique().tolist() == [value]
