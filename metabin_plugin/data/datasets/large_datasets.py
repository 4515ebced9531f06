"""Large datasets with a partition of their own: Market-1501, DukeMTMC-reID and MSMT17."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from metabin_plugin.data.datasets.base import (
    OwnSplit,
    OwnSplitDataset,
    Release,
    SourceDataset,
    TestItem,
    TrainItem,
    remedy,
    scan_folder,
)
from metabin_plugin.data.manifest import DISTRACTOR, JUNK
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import open_regular

TRAIN, GALLERY, QUERY = FOLDERS = ("bounding_box_train", "bounding_box_test", "query")

NOBODY: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Partitioned:
    """Where the images of such a dataset are, and which of them show nobody of interest.

    Attributes:
        release: the dataset.
        folder: the dataset's folder under the datasets root.
        pattern: file names; its groups are the identity and the camera, numbered from 1.
        false_detections: identity numbers of images that are never used.
        distractors: identity numbers of images that only a gallery may hold.
    """

    release: Release
    folder: str
    pattern: re.Pattern[str]
    false_detections: frozenset[int] = NOBODY
    distractors: frozenset[int] = NOBODY

    def people(self, root: Path, name: str) -> Iterator[TestItem]:
        """Iterate over path, identity and camera (from 0) of the people in a folder."""
        return (item for item in self.items(root, name) if item[1] not in self.distractors)

    def items(self, root: Path, name: str) -> Iterator[TestItem]:
        """Iterate as ``people`` does, but over the distractors too."""
        folder = root / self.folder / name
        for path, match in scan_folder(self.release, folder, ".jpg", self.pattern):
            identity, camera = int(match[1]), int(match[2])
            if identity not in self.false_detections:
                yield path, identity, camera - 1


class PartitionedSource(SourceDataset):
    """All images of the three folders, regardless of the dataset's own partition.

    Attributes:
        layout: where the images are.
    """

    layout: ClassVar[Partitioned]

    def read(self, root: Path) -> list[TrainItem]:
        """Return the images of the three folders without the junk identities."""
        return [
            self.train_item(path, str(identity), str(camera))
            for name in FOLDERS
            for path, identity, camera in self.layout.people(root, name)
        ]


class PartitionedOwnSplit(OwnSplitDataset):
    """The three folders as the dataset's authors meant them.

    Attributes:
        layout: where the images are.
    """

    layout: ClassVar[Partitioned]

    def read(self, root: Path) -> OwnSplit:
        """Return one list for each folder; distractors are in the gallery only."""
        train = self.layout.people(root, TRAIN)
        return OwnSplit(
            [self.train_item(path, str(person), str(camera)) for path, person, camera in train],
            list(self.layout.people(root, QUERY)),
            list(self.layout.items(root, GALLERY)),
        )


_MARKET = Partitioned(
    release=Release(
        title="Market-1501",
        layout=(
            "Market-1501-v15.09.15/{bounding_box_train,bounding_box_test,query}/"
            "0002_c1s1_000451_03.jpg"
        ),
        home_page="Market-1501 Dataset, Liang Zheng",
    ),
    folder="Market-1501-v15.09.15",
    pattern=re.compile(r"(-1|\d+)_c([1-6])s\d+_"),
    false_detections=frozenset({JUNK}),
    distractors=frozenset({DISTRACTOR}),
)


class DG_Market1501(PartitionedSource):
    """All images of Market-1501 (1,501 identities, 29,419 images).

    Of the 36,036 images of the release, the 3,819 of identity -1 (false detections) and the 2,798
    of identity 0 (distractors) are left out.

    Reference: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
    """

    layout = _MARKET
    release = _MARKET.release
    dataset_name = "market1501"


class DG_Market1501_Split(PartitionedOwnSplit):
    """Market-1501 in its own partition.

    751 identities with 12,936 images to train on; 3,368 queries of 750 others against 15,913
    gallery images, 2,798 distractors of identity 0 among them.

    Reference: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
    """

    layout = _MARKET
    release = _MARKET.release
    dataset_name = "market1501"
    _junk_pids: tuple[int, ...] = (DISTRACTOR,)


_DUKE = Partitioned(
    release=Release(
        title="DukeMTMC-reID",
        layout="DukeMTMC-reID/{bounding_box_train,bounding_box_test,query}/0005_c2_f0046985.jpg",
        home_page="DukeMTMC-reID evaluation, Zhedong Zheng",
    ),
    folder="DukeMTMC-reID",
    pattern=re.compile(r"(\d+)_c([1-8])_f"),
)


class DG_DukeMTMC(PartitionedSource):
    """All images of DukeMTMC-reID (1,812 identities, 36,411 images).

    Its 408 distractor persons have numbers of their own and count as identities.

    Reference: Zheng et al., Unlabeled Samples Generated by GAN Improve the Person
    Re-identification Baseline in vitro, ICCV 2017.
    """

    layout = _DUKE
    release = _DUKE.release
    dataset_name = "dukemtmc"


class DG_DukeMTMC_Split(PartitionedOwnSplit):
    """DukeMTMC-reID in its own partition.

    702 identities with 16,522 images to train on; 2,228 queries of 702 others against 17,661
    gallery images, which also show 408 distractor persons.

    Reference: Zheng et al., Unlabeled Samples Generated by GAN Improve the Person
    Re-identification Baseline in vitro, ICCV 2017.
    """

    layout = _DUKE
    release = _DUKE.release
    dataset_name = "dukemtmc"


# Folders of the training and of the test images; version 2 masks the faces.
EDITIONS = {"MSMT17_V1": ("train", "test"), "MSMT17_V2": ("mask_train_v2", "mask_test_v2")}
TRAIN_LISTS = ("list_train.txt", "list_val.txt")
QUERY_LIST, GALLERY_LIST = TEST_LISTS = ("list_query.txt", "list_gallery.txt")

_MSMT17 = Release(
    title="MSMT17",
    layout=(
        "MSMT17_V1/{train,test}/0000/0000_000_01_0303morning_0008_0.jpg (version 2: "
        "MSMT17_V2/{mask_train_v2,mask_test_v2}) and list_{train,val,query,gallery}.txt beside them"
    ),
    home_page="MSMT17, Longhui Wei, Peking University",
)
# The camera, numbered from 1, is the third field of a file name.
_MSMT17_LINE = re.compile(r"(\S*\d+_\d+_(\d+)_\S+)\s+(\d+)")


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
                f"{_MSMT17.title}: folder {root / 'MSMT17_V1'} is missing, and so is MSMT17_V2; "
                f"{remedy(_MSMT17)}"
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
            raise DatasetError(f"{_MSMT17.title}: folder {images} is missing; {remedy(_MSMT17)}")
        for number, line in enumerate(_lines(lists), start=1):
            match = _MSMT17_LINE.fullmatch(line)
            if match is None:
                raise DatasetError(
                    f"{_MSMT17.title}: {lists}, line {number}, is {line!r}, which is no image "
                    "and person as in `0000/0000_000_01_0303morning_0008_0.jpg 0`; "
                    "restore the list from the release"
                )
            yield str(images / match[1]), int(match[3]), int(match[2]) - 1


class _MSMT17Reader:
    """What both readers of MSMT17 share.

    Attributes:
        edition: the version that was read, ``MSMT17_V1`` or ``MSMT17_V2``.
    """

    release = _MSMT17
    dataset_name = "msmt17"
    edition: str

    def find(self, root: Path) -> Edition:
        """Return the version that is there, and keep its name."""
        edition = Edition(root)
        self.edition = edition.name
        return edition


class DG_MSMT17(_MSMT17Reader, SourceDataset):
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


class DG_MSMT17_Split(_MSMT17Reader, OwnSplitDataset):
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
            f"{_MSMT17.title}: {path} cannot be read ({error.strerror}); {remedy(_MSMT17)}"
        ) from error
    # Blank lines end some copies of the lists.
    return [line.strip() for line in text.rstrip().split("\n")]
