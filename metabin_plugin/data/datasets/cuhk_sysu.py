"""CUHK-SYSU: street snaps and movie frames, cropped."""

from __future__ import annotations

import re
from pathlib import Path

from metabin_plugin.data.datasets.base import SourceDataset, TrainItem
from metabin_plugin.data.datasets.scan import Release, scan_folder


class DG_CUHKSYSU(SourceDataset):
    """All person crops of CUHK-SYSU.

    The scenes have no camera labels: all images get one camera. Negative identities (people that
    the annotators left unlabelled) are left out.

    Reference: Xiao et al., Joint Detection and Identification Feature Learning for Person Search,
    CVPR 2017.
    """

    release = Release(
        title="CUHK-SYSU",
        layout="cuhk_sysu/cropped_images/p1_s12_1.jpg (person, scene, number)",
        home_page="CUHK-SYSU Person Search Dataset, Shuang Li and Tong Xiao",
    )
    dataset_name = "cuhksysu"

    def read(self, root: Path) -> list[TrainItem]:
        """Return the crops of the one folder."""
        pattern = re.compile(r"p(-?\d+)_s(\d+)")
        folder = root / "cuhk_sysu" / "cropped_images"
        matches = scan_folder(self.release, folder, ".jpg", pattern)
        people = ((path, int(match[1])) for path, match in matches)
        return [self.train_item(path, str(p), "0") for path, p in people if p >= 0]
