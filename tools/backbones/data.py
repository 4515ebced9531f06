"""Images of noise in files: three domains to train on and a target to evaluate on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

DOMAINS, IDENTITIES, IMAGES = 3, 4, 4


def write_data(folder: Path, size: tuple[int, int]) -> list[str]:
    """Write the images and their manifests, which are small and always the same.

    Args:
        folder: to write into.
        size: height and width of the images.

    Returns:
        KEY VALUE pairs that name the manifests.
    """
    random = np.random.default_rng(0)
    sources = tuple(_write(folder, f"source{number}", size, random) for number in range(DOMAINS))
    target = _write(folder, "target", size, random)
    return ["DATASETS.NAMES", str(sources), "DATASETS.TESTS", str((target,))]


def _write(folder: Path, name: str, size: tuple[int, int], random: np.random.Generator) -> str:
    rows = ["path,pid,camid,subset"]
    for identity in range(IDENTITIES):
        for camera in range(IMAGES):
            # Identities that a network could tell apart at once would leave nothing to learn.
            image = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
            file = f"{name}_{identity}_{camera}.png"
            image.save(folder / file)
            tested = "query" if camera == 0 else "gallery"
            rows.append(f"{file},{identity},{camera},{tested if name == 'target' else 'train'}")
    manifest = folder / f"{name}.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(manifest)
