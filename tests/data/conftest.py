"""Small image files and fastreid configs for the tests of the data room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastreid.config import CfgNode, get_cfg
from PIL import Image


@pytest.fixture(scope="session")
def write_image() -> Callable[..., Path]:
    """Function that writes a JPEG of 8 x 4 random pixels and returns its path."""

    def write(path: Path, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, "JPEG")
        return path

    return write


@pytest.fixture
def cfg() -> CfgNode:
    """fastreid's defaults for 8 x 4 images in batches of 8, without workers, on CPU."""
    cfg = get_cfg()
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = [8, 4]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.NUM_INSTANCE = 2
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.TEST.IMS_PER_BATCH = 4
    cfg.MODEL.DEVICE = "cpu"
    return cfg
