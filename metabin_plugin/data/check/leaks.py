"""Pictures and people on both sides of what a test must keep apart."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from metabin_plugin.data.build import Items, datasets_root
from metabin_plugin.data.check.faults import TRAIN, Collection
from metabin_plugin.data.check.images import Picture
from metabin_plugin.data.manifest import ManifestDataset, find_manifest
from metabin_plugin.errors import DatasetError
from metabin_plugin.text import shown

Pictures = Mapping[str, Picture]

# Distance of two small pictures up to which one is a copy of the other. Of the demo's images 95 of
# 100 copies in JPEG of quality 75, in WebP or of twice the size are nearer; other pictures are at
# least four times as far.
_SAME = 0.06


def find_leaks(collection: Collection, pictures: Pictures) -> Iterator[DatasetError]:
    """An error for each way in which a test would be easier than it looks.

    They are: a query whose picture is in the gallery under another camera or person, a test
    picture that is trained on, and a person of a manifest that is trained on and tested with. A
    query whose picture is in the gallery under its own camera and person is none, as evaluation
    leaves that gallery image out.

    Args:
        collection: what is trained on and tested with.
        pictures: of the readable images, by path.
    """
    for name, splits in collection.splits.items():
        yield from _found_in_gallery(name, splits, pictures)
    yield from _trained_on(collection, pictures)
    yield from _shared_people(collection)


def _found_in_gallery(
    name: str, splits: Sequence[tuple[Items, Items]], pictures: Pictures
) -> Iterator[DatasetError]:
    copies: dict[str, str] = {}
    for query, gallery in splits:
        side = _Gallery([item for item in gallery if item[0] in pictures], pictures)
        for item in query:
            if item[0] in pictures and item[0] not in copies:
                copy = side.copy_of(item)
                if copy is not None:
                    copies[item[0]] = copy
    if copies:
        query_path, gallery_path = next(iter(copies.items()))
        yield DatasetError(
            f"{shown(name)}: {len(copies)} queries show the picture of a gallery image under "
            f"another camera or person, for example {shown(query_path)} and "
            f"{shown(gallery_path)}; take one of the two out, or correct its camera and person"
        )


class _Gallery:
    """Finds copies of queries under another camera or person.

    Those with equal pixels are found among all gallery images, others among those of the person.

    Args:
        items: the gallery.
        pictures: of all images, by path.
    """

    def __init__(self, items: Items, pictures: Pictures) -> None:
        self._pictures = pictures
        self._by_pixels: dict[bytes, list[tuple[str, Any, Any]]] = defaultdict(list)
        by_person: dict[Any, list[tuple[str, Any, np.ndarray]]] = defaultdict(list)
        for path, person, camera, *_ in items:
            picture = pictures[path]
            self._by_pixels[picture.pixels].append((path, person, camera))
            if picture.small is not None:
                by_person[person].append((path, camera, picture.small))
        self._by_person = {}
        for person, found in by_person.items():
            paths, cameras, smalls = zip(*found, strict=True)
            self._by_person[person] = (paths, np.array(cameras), np.stack(smalls))

    def copy_of(self, query: Sequence[Any]) -> str | None:
        """Path of a copy; None if there is none."""
        path, person, camera = query[:3]
        picture = self._pictures[path]
        for other, *labels in self._by_pixels.get(picture.pixels, ()):
            if labels != [person, camera]:
                return other
        if picture.small is None or person not in self._by_person:
            return None
        paths, cameras, smalls = self._by_person[person]
        distances = np.linalg.norm(smalls - picture.small, axis=1)
        found = np.flatnonzero((distances <= _SAME) & (cameras != camera))
        return paths[found[0]] if len(found) else None


def _trained_on(collection: Collection, pictures: Pictures) -> Iterator[DatasetError]:
    for subset in collection.subsets:
        if subset.name != TRAIN or subset.whole:
            continue
        trained = [item[0] for item in subset.items if item[0] in pictures]
        by_pixels = {pictures[path].pixels: path for path in trained}
        like = _Likeness(trained, pictures)
        for name, splits in collection.splits.items():
            items = (item for split in splits for side in split for item in side)
            tested = [path for path in dict.fromkeys(item[0] for item in items) if path in pictures]
            copies = like.find(tested)
            copies.update(
                {
                    path: by_pixels[pictures[path].pixels]
                    for path in tested
                    if pictures[path].pixels in by_pixels
                }
            )
            # The same file on both sides is told as one that is listed twice.
            copies = {
                path: copy
                for path, copy in copies.items()
                if os.path.realpath(path) != os.path.realpath(copy)
            }
            if copies:
                path, copy = next(iter(copies.items()))
                yield DatasetError(
                    f"{subset}: {len(copies)} test images of {shown(name)} are trained on, in "
                    f"files of other names, for example {shown(path)} as {shown(copy)}; take them "
                    "out of one of the two"
                )


def contradictions(collection: Collection, pictures: Pictures) -> Iterator[str]:
    """A sentence about pictures that are trained on as two people.

    Args:
        collection: what is trained on.
        pictures: of the readable images, by path.
    """
    first: dict[bytes, Sequence[Any]] = {}
    found: list[tuple[str, str]] = []
    for subset in collection.subsets:
        if subset.name != TRAIN or subset.whole:
            continue
        for item in subset.items:
            picture = pictures.get(item[0])
            # Those without contrast may well be alike.
            if picture is None or picture.small is None:
                continue
            other = first.setdefault(picture.pixels, item)
            # The same file is told as one that is listed twice.
            is_same = os.path.realpath(item[0]) == os.path.realpath(other[0])
            if item[1] != other[1] and not is_same:
                found.append((item[0], other[0]))
    if found:
        yield (
            f"{len(found)} training images show the picture of another person's image, for example "
            f"{shown(found[0][0])} and {shown(found[0][1])}; take one of the two out, or correct "
            "its person"
        )


class _Likeness:
    """Finds the images of which a list has a copy, in whatever format or size.

    Args:
        paths: the list.
        pictures: of all images, by path.
    """

    def __init__(self, paths: Sequence[str], pictures: Pictures) -> None:
        self._pictures = pictures
        self._paths, smalls = self._with_contrast(paths)
        self._tree = cKDTree(smalls) if self._paths else None

    def find(self, paths: Sequence[str]) -> dict[str, str]:
        """Each image that has a copy in the list, and the copy."""
        paths, smalls = self._with_contrast(paths)
        if self._tree is None or not paths:
            return {}
        distances, nearest = self._tree.query(smalls, distance_upper_bound=_SAME, workers=-1)
        return {
            path: self._paths[place]
            for path, distance, place in zip(paths, distances, nearest, strict=True)
            if np.isfinite(distance)
        }

    def _with_contrast(self, paths: Sequence[str]) -> tuple[list[str], np.ndarray]:
        kept = [(path, self._pictures[path].small) for path in paths]
        told = [(path, small) for path, small in kept if small is not None]
        return [path for path, _ in told], np.array([small for _, small in told])


def _shared_people(collection: Collection) -> Iterator[DatasetError]:
    tested = {_file(name) for name in collection.splits}
    for name, dataset in collection.sources:
        if not isinstance(dataset, ManifestDataset) or _file(name) not in tested:
            continue
        people = dataset.shared_people()
        if people:
            yield DatasetError(
                f"{shown(name)}: {len(people)} people of its training rows are in its test rows "
                f"too, for example {shown(repr(people[0]))}; move all rows of a person to one of "
                "the two, or give different people different labels"
            )


def _file(name: str) -> str:
    try:
        return os.path.realpath(find_manifest(name, datasets_root()))
    # The name of a registered dataset.
    except DatasetError:
        return name
