"""MSMT17: fifteen cameras on a campus, four days in a month."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from metabin_plugin.data.datasets.base import (
    OwnSplit,
    OwnSplitDataset,
    Release,
    SourceDataset,
    TestItem,
    TrainItem,
    remedy,
)
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import open_regular

# Folders of the training and of the test images; version 2 masks the faces.
EDITIONS = {"MSMT17_V1": ("train", "test"), "MSMT17_V2": ("mask_train_v2", "mask_test_v2")}
TRAIN_LISTS = ("list_train.txt", "list_val.txt")
QUERY_LIST, GALLERY_LIST = TEST_LISTS = ("list_query.txt", "list_gallery.txt")

_RELEASE = Release(
    title="MSMT17",
    layout=(
        "MSMT17_V1/{train,test}/0000/0000_000_01_0303morning_0008_0.jpg (version 2: "
        "MSMT17_V2/{mask_train_v2,mask_test_v2}) and list_{train,val,query,gallery}.txt beside them"
    ),
    home_page="MSMT17, Longhui Wei, Peking University",
)
# The camera, numbered from 1, is the third field of a file name.
_LINE = re.compile(r"(\S*\d+_\d+_(\d+)_\S+)\s+(\d+)")


class Edition:
    """The version of MSMT17 that is under a datasets root; version 1 if both are.

    Args:
        root: the folder that holds all datasets.

    Attributes:
        name: ``MSMT17_V1`` or ``MSMT17_V2``.

    Raises:
        DatasetError: if neither version is there.
    """

    def __init__(self, root: Path) -> None:
        found = [name for name in EDITIONS if (root / name).is_dir()]
        if not found:
            raise DatasetError(
                f"{_RELEASE.title}: folder {root / 'MSMT17_V1'} is missing, and so is MSMT17_V2; "
                f"{remedy(_RELEASE)}"
            )
        self.name = found[0]
        self._root = root / self.name

    def train_items(self) -> Iterator[TestItem]:
        """Iterate over path, person and camera (from 0) of the training and validation images."""
        for name in TRAIN_LISTS:
            yield from self._items(EDITIONS[self.name][0], name)

    def test_items(self, name: str) -> Iterator[TestItem]:
        """Iterate over path, person and camera (from 0) of the images in a test list.

        The persons are numbered anew: person 0 here is not person 0 of the training images.
        """
        return self._items(EDITIONS[self.name][1], name)

    def _items(self, folder: str, name: str) -> Iterator[TestItem]:
        images, lists = self._root / folder, self._root / name
        if not images.is_dir():
            raise DatasetError(f"{_RELEASE.title}: folder {images} is missing; {remedy(_RELEASE)}")
        for number, line in enumerate(_lines(lists), start=1):
            match = _LINE.fullmatch(line)
            if match is None:
                raise DatasetError(
                    f"{_RELEASE.title}: {lists}, line {number}, is {line!r}, which is no image "
                    "and person as in `0000/0000_000_01_0303morning_0008_0.jpg 0`; "
                    "restore the list from the release"
                )
            yield str(images / match[1]), int(match[3]), int(match[2]) - 1


class _MSMT17:
    """What the readers of MSMT17 share.

    Attributes:
        edition: the version that was read, ``MSMT17_V1`` or ``MSMT17_V2``.
    """

    release = _RELEASE
    dataset_name = "msmt17"
    edition: str

    def find(self, root: Path) -> Edition:
        """Return the version that is there, and keep its name."""
        edition = Edition(root)
        self.edition = edition.name
        return edition


class DG_MSMT17(_MSMT17, SourceDataset):
    """All images of MSMT17, version 1 or 2 (4,101 identities, 126,441 images).

    Reference: Wei et al., Person Transfer GAN to Bridge Domain Gap for Person Re-identification,
    CVPR 2018.
    """

    def read(self, root: Path) -> list[TrainItem]:
        """Return the images of the four lists."""
        edition = self.find(root)
        train = [(path, str(person), camera) for path, person, camera in edition.train_items()]
        test = [
            (path, f"test_{person}", camera)
            for name in TEST_LISTS
            for path, person, camera in edition.test_items(name)
        ]
        return [self.train_item(path, who, str(camera)) for path, who, camera in train + test]


class DG_MSMT17_Split(_MSMT17, OwnSplitDataset):
    """MSMT17, version 1 or 2, in its own partition.

    1,041 identities with 32,621 images (2,373 of them the authors' validation images) to train on;
    11,659 queries of 3,060 others against 82,161 gallery images.

    Reference: Wei et al., Person Transfer GAN to Bridge Domain Gap for Person Re-identification,
    CVPR 2018.
    """

    def read(self, root: Path) -> OwnSplit:
        """Return the images of the lists."""
        edition = self.find(root)
        return OwnSplit(
            [
                self.train_item(path, str(person), str(camera))
                for path, person, camera in edition.train_items()
            ],
            list(edition.test_items(QUERY_LIST)),
            list(edition.test_items(GALLERY_LIST)),
        )


def _lines(path: Path) -> list[str]:
    try:
        with open_regular(path) as file:
            text = file.read().decode(errors="replace")
    except OSError as error:
        raise DatasetError(
            f"{_RELEASE.title}: {path} cannot be read ({error.strerror}); {remedy(_RELEASE)}"
        ) from error
    # Blank lines end some copies of the lists.
    return [line.strip() for line in text.rstrip().split("\n")]
