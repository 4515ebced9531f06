"""CUHK-SYSU: street snaps and movie frames, cropped."""

from __future__ import annotations

import re
from pathlib import Path

from metabin_plugin.data.datasets.base import SourceDataset, TrainItem
from metabin_plugin.data.datasets.originals import require_images
from metabin_plugin.data.datasets.scan import Release, scan_folder

# Where people unpack the release under the datasets root.
_ORIGINALS = ("cuhk_sysu", "cuhk_sysu/dataset", "CUHK-SYSU", "CUHK-SYSU/dataset")
ANNOTATION = "annotation/Person.mat"


class DG_CUHKSYSU(SourceDataset):
    """All person crops of CUHK-SYSU (11,934 identities, 34,574 images).

    They are the boxes of all persons in ``annotation/Person.mat``, training and test persons, cut
    out by ``tools/crop_cuhk_sysu.py``. The scenes have no camera labels: all images get one camera.
    Negative identities (people that the annotators left unlabelled) are left out.

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
        folder = crops_folder(root)
        releases = (root / place for place in _ORIGINALS)
        originals = (place for place in releases if (place / ANNOTATION).exists())
        require_images(self.release, folder, originals, "crop_cuhk_sysu.py", root)
        matches = scan_folder(self.release, folder, ".jpg", pattern)
        people = ((path, int(match[1])) for path, match in matches)
        return [self.train_item(path, str(p), "0") for path, p in people if p >= 0]


def crops_folder(root: Path) -> Path:
    """Folder of the crops under the datasets root ``root``."""
    return root / "cuhk_sysu" / "cropped_images"
