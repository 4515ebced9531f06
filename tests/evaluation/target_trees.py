"""The four targets as small trees of image files in their original layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

PEOPLE = 8


def write_targets(root: Path) -> None:
    """Eight people in each of two cameras (i-LIDS: three images), and strangers for GRID."""
    for person in range(1, PEOPLE + 1):
        views = [
            f"VIPeR/cam_a/{person:03d}_45.bmp",
            f"VIPeR/cam_b/{person:03d}_90.bmp",
            f"prid_2011/single_shot/cam_a/person_{person:04d}.png",
            f"prid_2011/single_shot/cam_b/person_{person:04d}.png",
            f"underground_reid/probe/{person:04d}_1_25004_107_32_106_221.jpeg",
            f"underground_reid/gallery/{person:04d}_2_25023_116_134_128_330.jpeg",
            *(f"i-LIDS_Pedestrian/Persons/{person:04d}{image:03d}.jpg" for image in (1, 2, 3)),
        ]
        for number, name in enumerate(views):
            _write(root / name, 100 * person + number, person)
    for stranger in range(3):
        name = f"underground_reid/gallery/0000_5_2501{stranger}_1_2_3_4.jpeg"
        _write(root / name, stranger, 50 + stranger)


def _write(path: Path, seed: int, person: int) -> None:
    # The light of an image differs as much as the people do, so that not every query is matched.
    random = np.random.default_rng(seed)
    colour = np.random.default_rng(person).integers(98, 158, 3) + random.integers(-30, 30, 3)
    noise = random.integers(-40, 40, (32, 16, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((colour + noise).astype(np.uint8)).save(path)
