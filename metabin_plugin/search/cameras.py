"""Cameras of an index: which one took the image of a row, and what the images of each have alike.

An index by camera keeps features as the network gave them. They are compared as evaluation does it
with ``METABIN.TEST.CAMERA_STANDARDIZATION`` (``metabin_plugin.ranking.standardize_by_camera``):
less the mean of all images of their camera, divided by their deviation. Both change with each image
that comes or goes, so that what is compared is made when the index is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from metabin_plugin.errors import SearchError
from metabin_plugin.ranking import ROUNDINGS
from metabin_plugin.search.engine import flat_rows
from metabin_plugin.search.vectors import ROWS, comparable
from metabin_plugin.text import shown

# Of a deviation: what moved by less is not worth a word.
_SMALLEST_MOVE = 1e-3
_NAMED = 5  # cameras in a sentence


class Moments(NamedTuple):
    """Number, mean and variance of the features of some images, in each dimension, in float64.

    Attributes:
        number: how many there are.
        mean: (D,).
        squares: sums of the squared differences from the mean (D,), ``number`` times the variance.
    """

    number: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Moments:
        """Those of some features (N, D), at least one."""
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        return cls(len(rows), mean, np.square(rows - mean).sum(0))

    def joined(self, other: Moments) -> Moments:
        """Those of the images of both.

        Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
        variances, 1979.
        """
        number = self.number + other.number
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.number / number)
        between = np.square(apart) * (self.number * other.number / number)
        return Moments(number, mean, self.squares + other.squares + between)

    @property
    def scale(self) -> np.ndarray:
        """One over the deviation (D,); 0 where all images have the same number.

        As in evaluation, a deviation of no more than the rounding of float32 features is none.
        """
        variance = self.squares / self.number
        size = np.sqrt(variance + np.square(self.mean))
        deviation = np.sqrt(variance)
        varies = deviation > ROUNDINGS * np.finfo(np.float32).eps * size
        return np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)


# By the name of the camera, in the order of their first rows.
Statistics = Mapping[str, Moments]


class Standard(NamedTuple):
    """What a camera's features are standardized by: ``(feature - mean) * scale``."""

    mean: np.ndarray
    scale: np.ndarray


def standards(statistics: Statistics) -> dict[str, Standard]:
    """By what each camera's features are standardized.

    As in evaluation a camera of one image, which would leave nothing of it, takes mean and
    deviation of all images.
    """
    together = reduce(Moments.joined, statistics.values())
    taken = {name: own if own.number > 1 else together for name, own in statistics.items()}
    return {name: Standard(moments.mean, moments.scale) for name, moments in taken.items()}


def standardize(features: np.ndarray, cameras: Sequence[str], statistics: Statistics) -> np.ndarray:
    """Features as those of an index by camera are compared, before ``comparable``.

    Args:
        features: of images (N, D), as the network gives them.
        cameras: that of each; they are known, see ``check_known``.
        statistics: of the index.

    Returns:
        float32 (N, D).
    """
    own = standards(statistics)
    rows = np.empty(features.shape, np.float32)
    names = np.array(cameras, object)
    # What lies beyond all float32 is refused by what compares it.
    with np.errstate(over="ignore"):
        for name in dict.fromkeys(cameras):
            places = np.flatnonzero(names == name)
            rows[places] = (features[places].astype(np.float64) - own[name].mean) * own[name].scale
    return rows


@dataclass(frozen=True)
class Cameras:
    """The cameras of an index's rows.

    Attributes:
        places: of each row's camera among the names of the statistics (N,), int32.
        statistics: of all rows of each camera.
        calibrated: the statistics by which the threshold was found; None without one.
    """

    places: np.ndarray
    statistics: Statistics
    calibrated: Statistics | None = None

    @classmethod
    def of(cls, names: Iterable[str], index: Any, calibrated: Statistics | None = None) -> Cameras:
        """Those of the rows of a flat index.

        The statistics are made anew of all rows, in their order and in blocks of the same size.
        So they are the same to the last bit, however the rows came together.

        Args:
            names: the camera of each row.
            index: a Faiss index, of the features as the network gave them.
            calibrated: see the class.
        """
        number: dict[str, int] = {}
        places = np.fromiter((number.setdefault(name, len(number)) for name in names), np.int32)
        rows = flat_rows(index)
        found: dict[int, Moments] = {}
        for start in range(0, len(rows), ROWS):
            block, own = rows[start : start + ROWS], places[start : start + ROWS]
            for place in np.unique(own).tolist():
                moments = Moments.of(block[own == place])
                found[place] = found[place].joined(moments) if place in found else moments
        return cls(places, {name: found[place] for name, place in number.items()}, calibrated)

    def __iter__(self) -> Iterator[str]:
        """The name of each row's camera."""
        names = list(self.statistics)
        return (names[place] for place in self.places.tolist())

    def __len__(self) -> int:
        return len(self.places)

    def check_known(self, cameras: Sequence[str], images: Sequence[str]) -> None:
        """Refuse images of other cameras.

        Args:
            cameras: that of each image.
            images: a name for each.

        Raises:
            SearchError: the index has no image of a camera.
        """
        for camera, image in zip(cameras, images, strict=True):
            if camera not in self.statistics:
                raise SearchError(
                    f"camera {shown(camera)!r} of {shown(image)} is not in the index, which has "
                    f"{_listed(self.statistics)}; correct it, or `add` images of it first"
                )

    def make_comparable(self, index: Any, metric: str) -> None:
        """Standardize the rows of their index, in place: it is to be searched, not to be written.

        Raises:
            SearchError: a row cannot be standardized by statistics that are none of its own.
        """
        own = standards(self.statistics)
        means, scales = (
            np.stack([getattr(own[name], what) for name in own]) for what in Standard._fields
        )
        rows = flat_rows(index)
        with np.errstate(over="ignore"):
            for start in range(0, len(rows), ROWS):
                block = rows[start : start + ROWS]
                places = self.places[start : start + ROWS]
                block[:] = (block - means[places]) * scales[places]
                comparable(block, metric, start, may_be_zero=True)

    def moves(self) -> dict[str, float]:
        """How far the images of each camera moved since the threshold was found.

        It is the root of the mean squared difference, over the images that the camera had then and
        over the dimensions, between what was compared of them then and what would be now. The
        features that are compared have a deviation of 1. Cameras that are not there any more, or
        were not yet, are left out.
        """
        if self.calibrated is None:
            return {}
        before, now = standards(self.calibrated), standards(self.statistics)
        return {
            name: _move(self.calibrated[name], before[name], now[name])
            for name in now
            if name in before
        }

    def caution(self) -> str:
        """What is to be said of a threshold, "" if nothing moved since it was found."""
        if self.calibrated is None:
            return ""
        moves = self.moves()
        most = max(moves, key=moves.__getitem__, default="")
        new = [name for name in self.statistics if name not in self.calibrated]
        said = []
        if most and moves[most] >= _SMALLEST_MOVE:
            said.append(
                f"the images of camera {shown(most)!r} moved by {moves[most]:.3f} deviations, "
                f"the most of {len(moves)}"
            )
        if new:
            said.append(f"there are new cameras, {_listed(new)}")
        if not said:
            return ""
        return (
            f"Since the threshold was found {' and '.join(said)}; `metabin threshold` finds it anew"
        )

    def __str__(self) -> str:
        counts = {name: moments.number for name, moments in self.statistics.items()}
        fewest, most = min(counts.values()), max(counts.values())
        sizes = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        said = f"{len(counts)} {'camera' if len(counts) == 1 else 'cameras'} of {sizes} images"
        alone = [name for name, count in counts.items() if count == 1]
        return f"{said}; standardized as all images are: {_listed(alone)}" if alone else said


def _move(then: Moments, before: Standard, now: Standard) -> float:
    # An image x went from (x - m) s to (x - m') s'; of x the mean and the variance are known.
    stretched = now.scale - before.scale
    shift = then.mean * stretched - now.mean * now.scale + before.mean * before.scale
    # Statistics of an index that comes from anyone may be of any size.
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt((np.square(stretched) * then.squares / then.number + shift**2).mean()))


def _listed(names: Iterable[str]) -> str:
    names = [repr(shown(name)) for name in names]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def complete_cameras(cameras: Sequence[str], images: Iterable[str], given: str) -> list[str]:
    """The camera of each image, that of the command line where nothing else says one.

    Args:
        cameras: that of each image; "" where it is not known.
        images: a name for each.
        given: of the command line; "" for none.

    Raises:
        SearchError: one is not known, or all of them are and one is given.
    """
    if given and all(cameras):
        raise SearchError(
            f"--camera is {shown(given)!r}, but the camera of each image is known without; leave "
            "it out"
        )
    for camera, image in zip(cameras, images, strict=True):
        if not (camera or given):
            raise SearchError(
                f"the index is by camera, and that of {shown(image)} is not known; give --camera, "
                "or a manifest in place of images and folders"
            )
    return [camera or given for camera in cameras]
