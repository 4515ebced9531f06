"""CUHK03: five pairs of cameras, detected or hand-labelled boxes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from metabin_plugin.data.datasets.base import SourceDataset, TrainItem
from metabin_plugin.data.datasets.originals import require_images
from metabin_plugin.data.datasets.scan import Release, scan_folder

HOME_PAGE = "CUHK Person Re-identification Datasets, Xiaogang Wang"

# Where people unpack the release under the datasets root.
_ORIGINALS = ("cuhk03/cuhk03_release", "cuhk03", "cuhk03_release")
MAT_FILE = "cuhk-03.mat"
_NAME = re.compile(r"(\d+)_(\d+)_([12])_\d+\.")


def images_folder(root: Path, boxes: str) -> Path:
    """Folder of the extracted ``detected`` or ``labeled`` images."""
    return root / "cuhk03" / f"images_{boxes}"


def image_names(release: Release, root: Path, boxes: str) -> Iterator[tuple[str, int, int, int]]:
    """Iterate over path, camera pair, person and view (1 or 2) of the extracted images.

    Raises:
        DatasetError: if they are not extracted, or a name cannot be parsed.
    """
    folder = images_folder(root, boxes)
    originals = (root / place / MAT_FILE for place in _ORIGINALS)
    require_images(release, folder, originals, "extract_cuhk03.py", root)
    for path, match in scan_folder(release, folder, ".png", _NAME):
        pair, person, view = (int(number) for number in match.groups())
        yield path, pair, person, view


def train_labels(pair: int, person: int, view: int) -> tuple[str, str]:
    """Name of a person, who is numbered anew in each camera pair, and of the camera."""
    return f"P{pair}_{person}", f"P{pair}_cam{view}"


class DG_CUHK03(SourceDataset):
    """All detected images of CUHK03 (1,467 identities, 14,097 images).

    They come from ``cuhk-03.mat`` by ``tools/extract_cuhk03.py``. Persons are numbered anew in
    each camera pair, so pair and number together are the identity.

    Reference: Li et al., DeepReID: Deep Filter Pairing Neural Network, CVPR 2014.
    """

    boxes: ClassVar[str] = "detected"
    release = Release(
        title="CUHK03",
        layout="cuhk03/images_detected/1_001_1_01.png (pair_person_view_image)",
        home_page=HOME_PAGE,
    )
    dataset_name = "cuhk03"

    def read(self, root: Path) -> list[TrainItem]:
        """Return the images of the extracted folder."""
        return [
            self.train_item(path, *train_labels(*numbers))
            for path, *numbers in image_names(self.release, root, self.boxes)
        ]


class DG_CUHK03_Labeled(DG_CUHK03):
    """All images of CUHK03 in hand-labelled boxes (1,467 identities, 14,096 images).

    The persons are those of ``DG_CUHK03``.

    Reference: Li et al., DeepReID: Deep Filter Pairing Neural Network, CVPR 2014.
    """

    boxes = "labeled"
    release = Release(
        title="CUHK03 (labelled boxes)",
        layout="cuhk03/images_labeled/1_001_1_01.png (pair_person_view_image)",
        home_page=HOME_PAGE,
    )
