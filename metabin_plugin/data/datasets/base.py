"""What all data sets of the benchmark have in common: a release on disk, and lists of images."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from fastreid.data.datasets.bases import ImageDataset

from metabin_plugin.data.splits import (
    NUM_SPLITS,
    Split,
    cross_camera_images,
    draw_queries,
    frozen_splits,
    paired_identities,
    strangers_to,
)
from metabin_plugin.errors import DatasetError

TrainItem = tuple[str, str, str]
TestItem = tuple[str, int, int]

# Values of TargetDataset.split_source.
FROZEN, SEEDED, OWN = "frozen", "seeded", "own"

_SPLITS_USED = {
    FROZEN: "the ten frozen splits of the benchmark",
    SEEDED: "ten seeded splits of its own, as it does not hold the people of the whole release",
    OWN: "its own ten partitions",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Release:
    """What a dataset looks like on disk, as it is distributed.

    Attributes:
        title: the dataset's usual name.
        layout: one example path per kind of file, relative to the datasets root.
        home_page: name of the page where its authors offer it.
    """

    title: str
    layout: str
    home_page: str


class Shot(NamedTuple):
    """One image of a target dataset.

    Attributes:
        path: the image file.
        identity: number of the person, as the splits and the evaluation use it.
        camera: 0 if it can only be a query, 1 if it can only be in the gallery; 0 where the
            dataset has no cameras.
        train_identity: name of the person, unique within the dataset.
        train_camera: name of the camera, unique within the dataset.
    """

    path: str
    identity: int
    camera: int
    train_identity: str
    train_camera: str


class NamedDataset(ImageDataset):
    """A dataset in the layout of its release.

    Attributes:
        release: what it looks like on disk.
        dataset_name: prefix of its identities and cameras, so that several sources never collide.
    """

    release: ClassVar[Release]
    dataset_name: ClassVar[str]

    def train_item(self, path: str, identity: str, camera: str) -> TrainItem:
        """Return a training item with prefixed identity and camera."""
        return path, f"{self.dataset_name}_{identity}", f"{self.dataset_name}_{camera}"


class BenchmarkDataset(NamedDataset):
    """A dataset whose ``train`` list is all of its images, whatever its own partition."""

    def combine_all(self) -> None:
        """Do nothing: ``train`` holds all images already."""


class SourceDataset(BenchmarkDataset):
    """A source domain: training images only.

    Args:
        root: the folder that holds all datasets.
        **kwargs: passed on to fastreid's ``ImageDataset``.

    Raises:
        DatasetError: if a folder is missing or empty, or a file name cannot be parsed.
    """

    def __init__(self, root: str = "datasets", **kwargs: Any) -> None:
        super().__init__(self.read(Path(root).expanduser()), [], [], **kwargs)

    def read(self, root: Path) -> list[TrainItem]:
        """Return all images under the datasets root ``root``."""
        raise NotImplementedError


class TargetDataset(BenchmarkDataset):
    """An unseen target: ten single-shot splits; ``query`` and ``gallery`` are split 0.

    It is read from its original folders or, where these are not there, from
    ``PETA dataset/<subset>/archive``, the PETA re-release (Deng et al., Pedestrian Attribute
    Recognition at Far Distance, ACM MM 2014).

    Args:
        root: the folder that holds all datasets.
        **kwargs: passed on to fastreid's ``ImageDataset``.

    Attributes:
        original_folder: what its original release is called.
        peta_subset: what PETA calls it.
        edition: ``"original"`` or ``"PETA"``, the release that was read.
        split_source: ``"frozen"``: the record of the benchmark; ``"seeded"``: drawn by its rule,
            for copies with other people than the release has; ``"own"``: the dataset's partitions.
        splits: ten pairs of query items and gallery items. The cameras are 0 for queries and 1 for
            the gallery, so that evaluation discards no match.
        has_cameras: whether queries and gallery are from different cameras.
        strangers: for each split further queries, of all people who are not in its gallery: those
            whose gallery images it leaves out, and those whom no gallery camera saw.

    Raises:
        DatasetError: if a folder is missing or empty, or a file name cannot be parsed.
    """

    original_folder: ClassVar[str]
    peta_subset: ClassVar[str]
    has_cameras: ClassVar[bool] = True
    edition: str
    split_source: str
    splits: list[tuple[list[TestItem], list[TestItem]]]
    strangers: list[list[TestItem]]

    def __init__(self, root: str = "datasets", **kwargs: Any) -> None:
        folder = Path(root).expanduser()
        archive = folder / "PETA dataset" / self.peta_subset / "archive"
        if archive.is_dir() and not (folder / self.original_folder).exists():
            self.edition, shots = "PETA", self.read_peta(archive)
        else:
            self.edition, shots = "original", self.read(folder)
        self.split_source, positions = self.draw(shots)
        self.splits = [self._items(shots, split) for split in positions]
        probes = [(s.path, s.identity) for s in shots if s.camera == 0]
        self.strangers = [strangers_to(gallery, probes) for _, gallery in self.splits]
        self._report(shots)
        train = [self.train_item(s.path, s.train_identity, s.train_camera) for s in shots]
        super().__init__(train, *self.splits[0], **kwargs)

    def read(self, root: Path) -> list[Shot]:
        """Return all images of the original release under the datasets root ``root``."""
        raise NotImplementedError

    def read_peta(self, archive: Path) -> list[Shot]:
        """Return all images of the PETA re-release in the folder ``archive``."""
        raise NotImplementedError

    def draw(self, shots: list[Shot]) -> tuple[str, list[Split]]:
        """Return ``split_source`` and, for each split, the positions of query and gallery."""
        raise NotImplementedError

    def _items(self, shots: list[Shot], split: Split) -> tuple[list[TestItem], list[TestItem]]:
        query, gallery = split
        return (
            [(shots[i].path, shots[i].identity, 0) for i in query],
            [(shots[i].path, shots[i].identity, 1) for i in gallery],
        )

    def _report(self, shots: list[Shot]) -> None:
        level = logging.WARNING if self.split_source == SEEDED else logging.INFO
        words = (self.release.title, self.edition, len(shots), _SPLITS_USED[self.split_source])
        _log.log(level, "%s: the %s release with %d images, tested on %s", *words)


class CrossCameraTarget(TargetDataset):
    """A target whose queries are seen by one camera and whose gallery by another."""

    def draw(self, shots: list[Shot]) -> tuple[str, list[Split]]:
        """Put half of the paired identities of camera 0 against camera 1."""
        identities, cameras = [s.identity for s in shots], [s.camera for s in shots]
        paired = paired_identities(identities, cameras)
        known = set(paired)
        unpaired = sum(s.camera == 1 and s.identity not in known for s in shots)
        source, queries = self.choose(shots, paired, unpaired)
        return source, [cross_camera_images(chosen, identities, cameras) for chosen in queries]

    def choose(
        self, shots: list[Shot], paired: list[int], unpaired: int
    ) -> tuple[str, list[list[int]]]:
        """Return ``split_source`` and the query identities of each split.

        Args:
            shots: all images.
            paired: the identities that both cameras saw.
            unpaired: number of camera-1 images of other people.
        """
        frozen = frozen_splits(self.dataset_name, paired, unpaired)
        if frozen is not None:
            return FROZEN, frozen
        return SEEDED, [draw_queries(self.dataset_name, k, paired) for k in range(NUM_SPLITS)]


class OwnSplit(NamedTuple):
    """A dataset's own partition.

    Attributes:
        train: training items; their persons are in neither of the others.
        query: query items.
        gallery: gallery items, distractors included.
    """

    train: list[TrainItem]
    query: list[TestItem]
    gallery: list[TestItem]


class OwnSplitDataset(NamedDataset):
    """A dataset in its own partition, as a source (its training images only) or as a target.

    Args:
        root: the folder that holds all datasets.
        **kwargs: passed on to fastreid's ``ImageDataset``.

    Raises:
        DatasetError: if a folder or list is missing or empty, or a name cannot be parsed.
    """

    def __init__(self, root: str = "datasets", **kwargs: Any) -> None:
        super().__init__(*self.read(Path(root).expanduser()), **kwargs)

    def read(self, root: Path) -> OwnSplit:
        """Return the partition under the datasets root ``root``."""
        raise NotImplementedError


def scan_folder(
    release: Release, folder: Path, suffix: str, pattern: re.Pattern[str]
) -> Iterator[tuple[str, re.Match[str]]]:
    """Iterate over the images of a folder in the order of their names.

    Hidden files (such as those that macOS puts in archives) and other suffixes are skipped.

    Args:
        release: the dataset, for the error texts.
        folder: the folder to read; its subfolders are not entered.
        suffix: lower-case suffix of the image files, with its dot.
        pattern: what the beginning of every file name must match.

    Yields:
        Path of the image and the match of its name.

    Raises:
        DatasetError: if the folder is missing or unreadable, holds no such image, or names do not
            match.
    """
    names = sorted(
        name
        for name in _list(release, folder)
        if Path(name).suffix.lower() == suffix and not name.startswith(".")
    )
    if not names:
        raise DatasetError(
            f"{release.title}: folder {folder} holds no {suffix} image; {remedy(release)}"
        )
    matches = {name: pattern.match(name) for name in names}
    _check_names(release, folder, [name for name, match in matches.items() if match is None])
    for name, match in matches.items():
        if match is not None:
            yield str(folder / name), match


def _list(release: Release, folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        fault = "is missing"
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    raise DatasetError(f"{release.title}: folder {folder} {fault}; {remedy(release)}")


def _check_names(release: Release, folder: Path, wrong: list[str]) -> None:
    if wrong:
        others = f" (nor do {len(wrong) - 1} others there)" if len(wrong) > 1 else ""
        raise DatasetError(
            f"{release.title}: the name of {folder / wrong[0]} does not follow the layout "
            f"{release.layout}{others}; rename it or move it out of the folder"
        )


def remedy(release: Release) -> str:
    """What an error text says about a file of a release that is not as expected."""
    return (
        f"expected {release.layout} under the datasets root (environment variable "
        f"FASTREID_DATASETS), from the page {release.home_page!r}"
    )


def require_images(
    release: Release, folder: Path, originals: Iterable[Path], tool: str, root: Path
) -> None:
    """Name the command that makes a missing folder of images, if what it reads is there.

    Args:
        release: the dataset.
        folder: the folder of images.
        originals: where the release may be; the first one that exists is named.
        tool: name of the script, which is called with the release and ``root``.
        root: the folder that holds all datasets.

    Raises:
        DatasetError: if the folder is missing although an original exists.
    """
    if folder.is_dir():
        return
    for original in originals:
        if original.exists():
            command = shlex.join(["python", f"tools/{tool}", str(original), str(root)])
            raise DatasetError(
                f"{release.title}: folder {folder} is missing, but {original} is there; make the "
                f"images once with `{command}`"
            )
