"""CUHK03: five pairs of cameras, detected boxes."""

from __future__ import annotations

import re
from pathlib import Path

from metabin_plugin.data.datasets.base import SourceDataset, TrainItem
from metabin_plugin.data.datasets.scan import Release, scan_folder


class DG_CUHK03(SourceDataset):
    """All detected images of CUHK03 (1,467 identities, 14,097 images), already extracted.

    Persons are numbered anew in each camera pair, so pair and number together are the identity.

    Reference: Li et al., DeepReID: Deep Filter Pairing Neural Network, CVPR 2014.
    """

    release = Release(
        title="CUHK03",
        layout="cuhk03/images_detected/1_001_1_01.png (pair_person_view_image)",
        home_page="CUHK Person Re-identification Datasets, Xiaogang Wang",
    )
    dataset_name = "cuhk03"

    def read(self, root: Path) -> list[TrainItem]:
        """Return the images of the extracted folder."""
        pattern = re.compile(r"(\d+)_(\d+)_([12])_\d+\.")
        folder = root / "cuhk03" / "images_detected"
        items = []
        for path, match in scan_folder(self.release, folder, ".png", pattern):
            pair, person, view = (int(number) for number in match.groups())
            items.append(self.train_item(path, f"P{pair}_{person}", f"P{pair}_cam{view}"))
        return items
