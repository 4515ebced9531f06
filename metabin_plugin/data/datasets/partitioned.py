"""Market-1501 and DukeMTMC-reID: one layout of train, test and query folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from metabin_plugin.data.datasets.base import SourceDataset, TrainItem
from metabin_plugin.data.datasets.scan import scan_folder

FOLDERS = ("bounding_box_train", "bounding_box_test", "query")


class PartitionedSource(SourceDataset):
    """All images of the three folders, regardless of the dataset's own partition.

    Attributes:
        folder: the dataset's folder under the datasets root.
        pattern: file names; its groups are the identity and the camera, numbered from 1.
        junk: identity numbers that stand for no person: distractors and false detections.
    """

    folder: ClassVar[str]
    pattern: ClassVar[re.Pattern[str]]
    junk: ClassVar[frozenset[int]] = frozenset()

    def read(self, root: Path) -> list[TrainItem]:
        """Return the images of the three folders without the junk identities."""
        items = []
        for name in FOLDERS:
            folder = root / self.folder / name
            for path, match in scan_folder(self.release, folder, ".jpg", self.pattern):
                identity, camera = int(match[1]), int(match[2])
                if identity not in self.junk:
                    items.append(self.train_item(path, str(identity), str(camera - 1)))
        return items
