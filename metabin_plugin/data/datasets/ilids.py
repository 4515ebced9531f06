"""QMUL i-LIDS: people in an airport arrival hall, without camera labels."""

from __future__ import annotations

import re
from pathlib import Path

from metabin_plugin.data.datasets.base import Shot, TargetDataset
from metabin_plugin.data.datasets.scan import Release, scan_folder
from metabin_plugin.data.splits import Split, one_camera_split


class DG_iLIDS(TargetDataset):
    """QMUL i-LIDS (119 identities, 476 images): 60 queries against 60 gallery images.

    Reference: Zheng et al., Associating Groups of People, BMVC 2009.
    """

    release = Release(
        title="QMUL i-LIDS",
        layout="i-LIDS_Pedestrian/Persons/0001001.jpg (4 digits person, 3 digits image)",
        home_page="QMUL i-LIDS Person Re-identification Dataset, Wei-Shi Zheng",
    )
    dataset_name = "ilids"

    def read(self, root: Path) -> list[Shot]:
        """Return the images of the one folder."""
        pattern = re.compile(r"(\d{4})(\d{3})\.")
        folder = root / "i-LIDS_Pedestrian" / "Persons"
        return [
            Shot(path, int(match[1]), 0, str(int(match[1])), "0")
            for path, match in scan_folder(self.release, folder, ".jpg", pattern)
        ]

    def split(self, shots: list[Shot], index: int) -> Split:
        """Return one random image against another one for half of the identities."""
        return one_camera_split(self.dataset_name, index, [s.identity for s in shots])
