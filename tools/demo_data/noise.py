"""Smooth random fields for cloth folds, ground and walls."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLD_SIZE = 128


def field(
    rng: np.random.Generator, width: int, height: int, cells: tuple[int, int]
) -> NDArray[np.float32]:
    """Return normal noise interpolated from a coarse grid.

    Args:
        rng: the random stream.
        width: pixels per row.
        height: rows.
        cells: columns and rows of the coarse grid.

    Returns:
        Field of shape (height, width) with a standard deviation near 1.
    """
    coarse = rng.normal(0, 1.3, (cells[1] + 1, cells[0] + 1)).astype(np.float32)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def fractal(rng: np.random.Generator, width: int, height: int, cell: int) -> NDArray[np.float32]:
    """Return three octaves of noise, the coarsest with cells of ``cell`` pixels."""
    total = np.zeros((height, width), np.float32)
    for octave in range(3):
        size = max(2, cell >> octave)
        cells = (max(1, width // size), max(1, height // size))
        total += field(rng, width, height, cells) * np.float32(0.6**octave)
    return total * np.float32(0.65)


@functools.lru_cache(maxsize=8)
def folds(variant: int) -> NDArray[np.float32]:
    """Return a map of cloth folds (FOLD_SIZE squared, about unit deviation)."""
    rng = np.random.Generator(np.random.PCG64(977 + variant))
    size = FOLD_SIZE
    broad = field(rng, size, size, (6, 10))
    fine = field(rng, size, size, (14, 26))
    return broad * np.float32(0.8) + fine * np.float32(0.5)
