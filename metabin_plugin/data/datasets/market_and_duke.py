"""Market-1501 and DukeMTMC-reID, in folders of training, query and gallery."""

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
    scan_folder,
)
from metabin_plugin.data.manifest import DISTRACTOR, JUNK

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
