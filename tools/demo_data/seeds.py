"""Named random streams, so that an image never depends on the order of drawing."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the random generator that belongs to a name.

    Args:
        seed: seed of the whole benchmark.
        *names: what the numbers are for, such as dataset, "person" and number.
    """
    word = zlib.crc32("/".join(str(name) for name in names).encode())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, word])))
