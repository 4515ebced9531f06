"""The seeded rules of the ten single-shot query/gallery splits of the small target datasets.

A rule is part of the benchmark: the same images always give the same splits, on every machine and
with every numpy, so published means over ten splits can be compared. What the rules gave for the
real datasets is kept by ``frozen_splits``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUM_SPLITS = 10

Split = tuple[list[int], list[int]]


def _bits(dataset: str, index: int) -> np.random.PCG64:
    """Return the bit generator of split ``index`` of ``dataset``."""
    return np.random.PCG64(np.random.SeedSequence([*dataset.encode("ascii"), index]))


def _draw(values: Sequence[int], count: int, bits: np.random.PCG64) -> list[int]:
    # Raw 64-bit words as sort keys: numpy freezes the words of PCG64, but not the streams of
    # Generator.permutation or Generator.choice.
    keys = bits.random_raw(len(values))
    return [values[i] for i in np.argsort(keys, kind="stable")[:count]]


def paired_identities(identities: Sequence[int], cameras: Sequence[int]) -> list[int]:
    """Return the identities that both cameras saw, in ascending order.

    Args:
        identities: identity number of each image.
        cameras: camera of each image, 0 (query side) or 1 (gallery side).
    """
    seen = [{p for p, c in zip(identities, cameras, strict=True) if c == side} for side in (0, 1)]
    return sorted(seen[0] & seen[1])


def draw_queries(dataset: str, index: int, paired: Sequence[int]) -> list[int]:
    """Draw half of the paired identities as the queries of a two-camera dataset.

    Args:
        dataset: constant name that, with ``index``, seeds the split.
        index: number of the split, from 0.
        paired: what ``paired_identities`` returned.

    Returns:
        The drawn identities, in ascending order.
    """
    return sorted(_draw(paired, len(paired) // 2, _bits(dataset, index)))


def cross_camera_images(
    queries: Sequence[int], identities: Sequence[int], cameras: Sequence[int]
) -> Split:
    """Put camera 0 against camera 1.

    The gallery also holds every camera-1 image of identities that camera 0 never saw. On the
    real datasets this gives 316 against 316 images (VIPeR), 100 against 649 (PRID 2011
    single-shot) and 125 against 900 (GRID).

    Args:
        queries: the paired identities of the split.
        identities: identity number of each image.
        cameras: camera of each image, 0 (query side) or 1 (gallery side).

    Returns:
        Positions of the query images and of the gallery images, each in ascending order.
    """
    chosen = set(queries)
    others = set(paired_identities(identities, cameras)) - chosen
    query = [i for i, p in enumerate(identities) if cameras[i] == 0 and p in chosen]
    gallery = [i for i, p in enumerate(identities) if cameras[i] == 1 and p not in others]
    return query, gallery


def one_camera_split(dataset: str, index: int, identities: Sequence[int]) -> Split:
    """Split a dataset without cameras: one image of each drawn identity against one other.

    Half of the identities that have at least two images are drawn, rounded up (60 of the 119 of
    QMUL i-LIDS).

    Args:
        dataset: constant name that, with ``index``, seeds the split.
        index: number of the split, from 0.
        identities: identity number of each image.

    Returns:
        Positions of the query and of the gallery images, in the order of their identities.
    """
    images: dict[int, list[int]] = {}
    for position, identity in enumerate(identities):
        images.setdefault(identity, []).append(position)
    eligible = sorted(p for p, positions in images.items() if len(positions) > 1)
    bits = _bits(dataset, index)
    chosen = sorted(_draw(eligible, (len(eligible) + 1) // 2, bits))
    pairs = [_draw(images[identity], 2, bits) for identity in chosen]
    return [first for first, _ in pairs], [second for _, second in pairs]


def single_shot_split(
    dataset: str, index: int, identities: Sequence[int], cameras: Sequence[int]
) -> Split:
    """Split a dataset with any cameras: one image of each drawn identity against one other.

    Half of the identities that have a match, rounded up, are drawn. A match of an image shows the
    same identity from another camera. The gallery also holds every image of identities that have
    no match.

    Args:
        dataset: constant name that, with ``index``, seeds the split.
        index: number of the split, from 0.
        identities: identity number of each image.
        cameras: camera of each image.

    Returns:
        Positions of the query images and of the gallery images; the first gallery images are the
        matches of the queries, in the same order.
    """
    images: dict[int, list[int]] = {}
    for position, identity in enumerate(identities):
        images.setdefault(identity, []).append(position)

    def matches(image: int) -> list[int]:
        return [i for i in images[identities[image]] if cameras[i] != cameras[image]]

    eligible = sorted(p for p, positions in images.items() if matches(positions[0]))
    bits = _bits(dataset, index)
    query, gallery = [], []
    for identity in sorted(_draw(eligible, (len(eligible) + 1) // 2, bits)):
        query += _draw(images[identity], 1, bits)
        gallery += _draw(matches(query[-1]), 1, bits)
    strangers = images.keys() - set(eligible)
    return query, gallery + [i for i, p in enumerate(identities) if p in strangers]
