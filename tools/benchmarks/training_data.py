"""Images in files for a training that is only measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

DOMAINS, IDENTITIES, IMAGES = 5, 16, 4
# Market-1501's; height, width.
SIZE = (128, 64)


def write_domains(folder: Path, size: tuple[int, int] = SIZE) -> list[str]:
    """Write five domains of 16 identities with four JPEG images each.

    They are smooth with some noise, which makes files about as long as those of photographs.

    Args:
        folder: to write into.
        size: height and width of the images.

    Returns:
        Paths of the manifests, which are names for ``DATASETS.NAMES``.
    """
    random = np.random.default_rng(0)
    manifests = []
    for domain in range(DOMAINS):
        rows = ["path,pid,camid"]
        for identity in range(IDENTITIES):
            for camera in range(IMAGES):
                name = f"{domain}_{identity}_{camera}.jpg"
                _draw(random, size).save(folder / name, quality=95)
                rows.append(f"{name},{identity},{camera}")
        manifest = folder / f"domain{domain}.csv"
        manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
        manifests.append(str(manifest))
    return manifests


def _draw(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    height, width = size
    patches = random.integers(0, 256, (8, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth + random.normal(0, 6, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
