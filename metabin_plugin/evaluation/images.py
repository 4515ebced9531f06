"""What the evaluation knows of images: features and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from metabin_plugin.data.datasets.base import TestItem


class Images(NamedTuple):
    """Features and labels of N images.

    Attributes:
        features: features (N, D), float32, on the CPU.
        identities: identity of each image (N,).
        cameras: camera of each image (N,).
    """

    features: Tensor
    identities: np.ndarray
    cameras: np.ndarray

    def part(self, which: slice | np.ndarray) -> Images:
        """Return some of the images; an array says of each whether it is one of them."""
        return Images(self.features[which], self.identities[which], self.cameras[which])


class Members(NamedTuple):
    """The queries or the gallery of a split, as positions in a list of images.

    Attributes:
        positions: where each image is in the list (N,).
        identities: identity of each image in this split (N,).
        cameras: camera of each image in this split (N,).
    """

    positions: np.ndarray
    identities: np.ndarray
    cameras: np.ndarray

    def images(self, features: Tensor) -> Images:
        """Return the members' images, given the features of the whole list."""
        return Images(features[self.positions], self.identities, self.cameras)


def without_repetition(
    splits: Sequence[tuple[Sequence[TestItem], Sequence[TestItem]]],
) -> tuple[list[TestItem], list[tuple[Members, Members]]]:
    """List the images of all splits once, and the splits as positions in that list.

    Args:
        splits: pairs of query and gallery items ``(path, identity, camera)``. The same image may
            have other labels in another split.

    Returns:
        One item for each path, and the query and the gallery members of each split.
    """
    items: dict[str, Any] = {}
    for item in (item for split in splits for side in split for item in side):
        items.setdefault(item[0], item)
    positions = {path: position for position, path in enumerate(items)}

    def members(side: Sequence[TestItem]) -> Members:
        paths, identities, cameras = zip(*(item[:3] for item in side), strict=True)
        return Members(
            np.array([positions[path] for path in paths]), np.array(identities), np.array(cameras)
        )

    return list(items.values()), [(members(query), members(gallery)) for query, gallery in splits]
