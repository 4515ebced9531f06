"""QMUL i-LIDS: people in an airport arrival hall, without camera labels."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from metabin_plugin.data.datasets.base import FROZEN, SEEDED, Shot, TargetDataset
from metabin_plugin.data.datasets.scan import Release, scan_folder
from metabin_plugin.data.frozen_splits import frozen_splits
from metabin_plugin.data.splits import NUM_SPLITS, Split, one_camera_split

NOT_IN_ORIGINAL = 120


class DG_iLIDS(TargetDataset):
    """QMUL i-LIDS (119 identities, 476 images): 60 queries against 60 gallery images.

    Reference: Zheng et al., Associating Groups of People, BMVC 2009.
    """

    release = Release(
        title="QMUL i-LIDS",
        layout="i-LIDS_Pedestrian/Persons/0001001.jpg (4 digits person, 3 digits image) or "
        "PETA dataset/i-LID/archive/0001_001.jpg",
        home_page="QMUL i-LIDS Person Re-identification Dataset, Wei-Shi Zheng",
    )
    dataset_name = "ilids"
    original_folder = "i-LIDS_Pedestrian"
    peta_subset = "i-LID"

    def read(self, root: Path) -> list[Shot]:
        """Return the images of the one folder."""
        return self._scan(root / "i-LIDS_Pedestrian" / "Persons", r"(\d{4})(\d{3})\.")

    def read_peta(self, archive: Path) -> list[Shot]:
        """Return the images of the one folder, without person 120, who is none of the 119."""
        shots = self._scan(archive, r"(\d{4})_(\d{3})\.")
        return [shot for shot in shots if shot.identity != NOT_IN_ORIGINAL]

    def draw(self, shots: list[Shot]) -> tuple[str, list[Split]]:
        """Put one random image against another one for half of the identities."""
        identities = [s.identity for s in shots]
        counts = Counter(identities)
        numbers = [_number(s) for s in shots]
        population = [n for n, p in zip(numbers, identities, strict=True) if counts[p] > 1]
        frozen = frozen_splits(self.dataset_name, population, unpaired=0)
        if frozen is None:
            seeded = (one_camera_split(self.dataset_name, k, identities) for k in range(NUM_SPLITS))
            return SEEDED, list(seeded)
        position = {number: i for i, number in enumerate(numbers)}
        return FROZEN, [
            ([position[q] for q, _ in pairs], [position[g] for _, g in pairs]) for pairs in frozen
        ]

    def _scan(self, folder: Path, pattern: str) -> list[Shot]:
        images = scan_folder(self.release, folder, ".jpg", re.compile(pattern))
        return [Shot(path, int(match[1]), 0, str(int(match[1])), "0") for path, match in images]


def _number(shot: Shot) -> int:
    """1000 x identity + image."""
    return int(Path(shot.path).stem.replace("_", ""))
