"""Colours that people wear, and the way from display values to linear light."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

# Display colour and weight. Black, blue, grey and white are frequent, so that identities are
# confusable, as they are in surveillance video.
CLOTHES: dict[str, float] = {
    "1c1c20": 20, "33353a": 11, "55585c": 7, "8d9092": 6, "bcbdbb": 5, "e6e5e0": 12,
    "1f2840": 9, "2f4770": 6, "5f83ad": 4, "a9bdd0": 2.5, "5a4636": 4, "8c7355": 3.5,
    "c4b495": 4, "7a2429": 4, "b23a3a": 3, "d98d94": 2, "35502f": 2.5, "5e6b3f": 3,
    "4f7f62": 1.5, "4c3560": 2, "8f6aa0": 1, "c98a2e": 1.2, "d9c25a": 1.2, "c85f2c": 1.0,
    "2f7f86": 1.3,
}  # fmt: skip
TROUSERS: dict[str, float] = {
    "1d1d20": 22, "34363b": 12, "5a5c60": 6, "26304a": 14, "3d5478": 14, "6a86a8": 8,
    "8b7a60": 6, "b8a988": 5, "4a3b30": 5, "c9c7c0": 3, "4d5340": 4, "70302f": 1,
}  # fmt: skip
SHOES: dict[str, float] = {"1a1a1b": 40, "e0dfdb": 22, "4b3729": 16, "6b6d70": 10, "8a2f30": 4}
BAGS: dict[str, float] = {
    "1b1b1e": 36, "2b3550": 12, "54565a": 12, "5b4332": 12, "7a2a2c": 8, "49583c": 6,
    "b79d78": 6, "d6d2c8": 4, "37707d": 4,
}  # fmt: skip
HAIR: dict[str, float] = {"141213": 38, "2c211b": 24, "4d3826": 14, "7d6038": 7, "9a958f": 7}
SKIN: dict[str, float] = {"e3b99a": 34, "d6a37f": 30, "b98560": 16, "8a5b40": 11, "5b3a2a": 9}


def linear(display: Array | float) -> Array:
    """Return linear light of a display value in [0, 1], with a gamma of 2.2."""
    return np.power(np.asarray(display, np.float32), np.float32(2.2))


def parse(code: str) -> Array:
    """Return the display colour in [0, 1] of a six-digit hexadecimal code."""
    return np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255


def pick(rng: np.random.Generator, palette: dict[str, float], spread: float = 0.05) -> Array:
    """Draw a colour.

    Args:
        rng: the random stream.
        palette: display colours with their weights.
        spread: standard deviation of the lightness and, halved, of each channel.

    Returns:
        Reflectance of shape (3,), linear, in [0.01, 0.85].
    """
    weights = np.fromiter(palette.values(), float)
    code = list(palette)[rng.choice(len(weights), p=weights / weights.sum())]
    shift = rng.normal(0, spread) + rng.normal(0, spread / 2, 3)
    return np.clip(linear(np.clip(parse(code) + shift, 0.06, 0.95)), 0.01, 0.85).astype(np.float32)


def vary(rng: np.random.Generator, colour: Array, low: float, high: float) -> Array:
    """Return a lighter or darker tone of a reflectance, scaled by a factor in [low, high]."""
    return np.clip(colour * rng.uniform(low, high), 0.008, 0.9).astype(np.float32)
