"""Labels and features as many as a public data set has, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

_BLOCK = 4096


@dataclass(frozen=True)
class Size:
    """Numbers of a data set's test part.

    Attributes:
        name: the data set.
        queries: query images.
        gallery: gallery images.
        identities: persons among the queries.
        cameras: cameras.
        distractors: gallery images of nobody asked for, one label for all.
    """

    name: str
    queries: int
    gallery: int
    identities: int
    cameras: int
    distractors: int


SIZES = {
    "market": Size("Market-1501", 3368, 15913, 750, 6, 2798),
    "msmt17": Size("MSMT17", 11659, 82161, 3060, 15, 0),
}


class Labels(NamedTuple):
    """Identities and cameras, in the order in which ranking functions take them."""

    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_cameras: np.ndarray
    gallery_cameras: np.ndarray


def draw_labels(size: Size, random: np.random.Generator) -> Labels:
    """Queries from different (person, camera) pairs, two a person at least; a gallery of these."""
    order = random.permuted(np.tile(np.arange(size.cameras), (size.identities, 1)), axis=1)
    persons = np.repeat(np.arange(size.identities), size.cameras).reshape(order.shape)
    others = random.permutation((size.cameras - 2) * size.identities)
    others = others[: size.queries - 2 * size.identities]
    ids = np.concatenate([persons[:, :2].ravel(), persons[:, 2:].ravel()[others]])
    cameras = np.concatenate([order[:, :2].ravel(), order[:, 2:].ravel()[others]])
    pairs = random.integers(len(ids), size=size.gallery - size.distractors)
    nobody = np.full(size.distractors, size.identities)
    return Labels(
        ids,
        np.concatenate([ids[pairs], nobody]),
        cameras,
        np.concatenate([cameras[pairs], random.integers(size.cameras, size=size.distractors)]),
    )


def draw_features(
    size: Size, dimension: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, Labels]:
    """Features around one centre for each person, about as well told apart in any dimension.

    Args:
        size: how many.
        dimension: length of a feature vector.
        seed: of the generator.

    Returns:
        Features of queries (Q, dimension) and gallery (G, dimension), float32, and their labels.
    """
    random = np.random.default_rng(seed)
    labels = draw_labels(size, random)
    # The signal in a cosine grows with the dimension, its noise with the square root.
    noise = np.float32(0.6 * dimension**0.25)
    centres = random.standard_normal((size.identities, dimension), dtype=np.float32)

    def around(identities: np.ndarray) -> torch.Tensor:
        features = random.standard_normal((len(identities), dimension), dtype=np.float32)
        features *= noise
        # In blocks, so that the peak of memory is not that of drawing.
        for start in range(0, len(features), _BLOCK):
            block = slice(start, start + _BLOCK)
            known = identities[block] < size.identities
            features[block][known] += centres[identities[block][known]]
        return torch.from_numpy(features)

    return around(labels.query_ids), around(labels.gallery_ids), labels
