"""Ten frozen single-shot query/gallery splits of the small target datasets.

The rule is part of the benchmark: the same images always give the same splits, on every machine
and with every numpy, so published means over ten splits can be compared.
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


def cross_camera_split(
    dataset: str, index: int, identities: Sequence[int], cameras: Sequence[int]
) -> Split:
    """Split a two-camera dataset: half of the paired identities, camera 0 against camera 1.

    The gallery also holds every camera-1 image of identities that camera 0 never saw. On the
    real datasets this gives 316 against 316 images (VIPeR), 100 against 649 (PRID 2011
    single-shot) and 125 against 900 (GRID).

    Args:
        dataset: constant name that, with ``index``, seeds the split.
        index: number of the split, from 0.
        identities: identity number of each image.
        cameras: camera of each image, 0 (query side) or 1 (gallery side).

    Returns:
        Positions of the query images and of the gallery images, each in ascending order.
    """
    seen = [{p for p, c in zip(identities, cameras, strict=True) if c == side} for side in (0, 1)]
    paired = sorted(seen[0] & seen[1])
    chosen = set(_draw(paired, len(paired) // 2, _bits(dataset, index)))
    wanted = chosen | (seen[1] - seen[0])
    query = [i for i, p in enumerate(identities) if cameras[i] == 0 and p in chosen]
    gallery = [i for i, p in enumerate(identities) if cameras[i] == 1 and p in wanted]
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
