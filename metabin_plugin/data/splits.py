"""The seeded rules of the ten single-shot query/gallery splits of the small target datasets.

A rule is part of the benchmark: the same images always give the same splits, on every machine and
with every numpy, so published means over ten splits can be compared. What the rules gave for the
real datasets is kept by ``frozen_splits``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import numpy as np

from metabin_plugin.errors import DatasetError

NUM_SPLITS = 10

Split = tuple[list[int], list[int]]


# SHA-256 of each file in split_files: published numbers depend on their content.
SHA256 = {
    "grid": "64572c35bdddf966ca5b419e86e289ce91da28c719b1cd1dc186883f5a173a74",
    "ilids": "c0de09764298f251adb06e29d522dc7d9d40caa2d87c61d656ca800e1a72cac5",
    "prid": "997dad9ec332a15c1a72b5e43517840fe8dbe74d2bc9fad89053145027eb6ab4",
    "viper": "ea05f6eb0883513760bfb1724c2c47e16d4923fc0700524e021231c54157dec2",
}


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


def strangers_to(
    gallery: Iterable[tuple[str, int, int]], images: Iterable[tuple[str, int]]
) -> list[tuple[str, int, int]]:
    """Query items of the people who are not in a gallery.

    Args:
        gallery: a ``(path, identity, camera)`` for each gallery image.
        images: path and identity of what can be a query.
    """
    known = {identity for _, identity, _ in gallery}
    return [(path, identity, 0) for path, identity in images if identity not in known]


def frozen_splits(dataset: str, population: Sequence[int], unpaired: int) -> list[Any] | None:
    """Return the ten recorded splits of a target dataset.

    A record is a JSON object. ``population`` numbers what the splits are drawn from: the
    identities that both cameras saw (VIPeR, PRID, GRID), or the images, as 1000 x identity +
    image, of identities with two or more of them (i-LIDS). ``unpaired`` counts the gallery images
    of other people, which every split has. ``splits`` lists for each split the query identities,
    which are the gallery's too, or the pairs of a query and a gallery image (i-LIDS).

    Args:
        dataset: name of the dataset, a key of ``SHA256``.
        population: what the copy at hand has, in ascending order.
        unpaired: number of gallery images of people who are in no query.

    Returns:
        ``splits``; None if the copy at hand has not the people or images of the record.

    Raises:
        DatasetError: the record is not the file that the plugin was released with.
    """
    file = resources.files("metabin_plugin.data") / "split_files" / f"{dataset}.json"
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SHA256[dataset]:
        raise DatasetError(
            f"The splits in {file} are not those that metabin_plugin was released with; install "
            "it again"
        )
    record = json.loads(content)
    fits = (record["population"], record["unpaired"]) == (list(population), unpaired)
    return record["splits"] if fits else None
