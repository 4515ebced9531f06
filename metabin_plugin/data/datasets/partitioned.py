"""Market-1501 and DukeMTMC-reID: one layout of train, test and query folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from metabin_plugin.data.datasets.base import SourceDataset, TestItem, TrainItem
from metabin_plugin.data.datasets.own_split import OwnSplit, OwnSplitDataset
from metabin_plugin.data.datasets.scan import Release, scan_folder

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
