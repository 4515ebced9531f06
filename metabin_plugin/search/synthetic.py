"""Vectors that lie as the features of people do: in clusters, in few of many dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metabin_plugin.search.vectors import ROWS

IMAGES_PER_PERSON = 10
SUBSPACE = 64
NOISE = 0.6

DESCRIPTION = (
    f"One person for {IMAGES_PER_PERSON} vectors, drawn for each vector at random. A person is a "
    f"direction at random in a subspace of {SUBSPACE} dimensions, an image that unit vector plus "
    f"Gaussian noise of length {NOISE} in all dimensions. Queries are further images."
)


def draw_vectors(
    folder: Path, count: int, dimension: int, queries: int, seed: int = 0
) -> tuple[Path, Path]:
    """Write a gallery and queries, see ``DESCRIPTION``.

    Args:
        folder: where to write.
        count: gallery vectors.
        dimension: length of a vector.
        queries: query vectors.
        seed: of the generator.

    Returns:
        A .npy file of the gallery (count, dimension) and one of the queries, float32.
    """
    random = np.random.default_rng(seed)
    people = max(1, count // IMAGES_PER_PERSON)
    subspace = min(SUBSPACE, dimension)
    centres = random.standard_normal((people, subspace), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    basis = np.linalg.qr(random.standard_normal((dimension, subspace)))[0].T.astype(np.float32)
    paths = folder / "gallery.npy", folder / "queries.npy"
    for path, rows in zip(paths, (count, queries), strict=True):
        file = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dimension))
        for start in range(0, rows, ROWS):
            block = file[start : start + ROWS]
            block[:] = random.standard_normal(block.shape, dtype=np.float32)
            block *= np.float32(NOISE / np.sqrt(dimension))
            block += centres[random.integers(people, size=len(block))] @ basis
        file.flush()
    return paths
