"""CUHK02: five pairs of cameras on a campus."""

from __future__ import annotations

import re
from pathlib import Path

from metabin_plugin.data.datasets.base import SourceDataset, TrainItem
from metabin_plugin.data.datasets.scan import Release, scan_folder


class DG_CUHK02(SourceDataset):
    """All images of CUHK02 (1,816 identities, 7,264 images).

    Persons are numbered anew in each camera pair, so pair and number together are the identity.

    Reference: Li and Wang, Locally Aligned Feature Transforms across Views, CVPR 2013.
    """

    release = Release(
        title="CUHK02",
        layout="cuhk02/Dataset/P1/cam1/001_045.png (P1 to P5, cam1 and cam2)",
        home_page="CUHK Person Re-identification Datasets, Xiaogang Wang",
    )
    dataset_name = "cuhk02"

    def read(self, root: Path) -> list[TrainItem]:
        """Return the images of the ten folders."""
        pattern = re.compile(r"(\d+)_")
        items = []
        for pair in range(1, 6):
            for camera in (1, 2):
                folder = root / "cuhk02" / "Dataset" / f"P{pair}" / f"cam{camera}"
                for path, match in scan_folder(self.release, folder, ".png", pattern):
                    identity = f"P{pair}_{int(match[1])}"
                    items.append(self.train_item(path, identity, f"P{pair}_cam{camera}"))
        return items
