"""QMUL GRID: eight cameras in an underground station, with distractors."""

from __future__ import annotations

import re
from pathlib import Path

from metabin_plugin.data.datasets.base import CrossCameraTarget, Shot
from metabin_plugin.data.datasets.scan import Release, scan_folder


class DG_GRID(CrossCameraTarget):
    """GRID (250 pairs, 775 distractors): 125 probes against 900 gallery images.

    Reference: Loy et al., Multi-Camera Activity Correlation Analysis, CVPR 2009.
    """

    release = Release(
        title="GRID",
        layout="underground_reid/{probe,gallery}/0001_1_25004_107_32_106_221.jpeg",
        home_page="QMUL underGround Re-IDentification (GRID) Dataset, Chen Change Loy",
    )
    dataset_name = "grid"

    def read(self, root: Path) -> list[Shot]:
        """Return the probe images, the gallery images and the distractors."""
        pattern = re.compile(r"(\d+)_(\d+)_")
        shots = []
        for side, name in enumerate(("probe", "gallery")):
            folder = root / "underground_reid" / name
            for path, match in scan_folder(self.release, folder, ".jpeg", pattern):
                identity = int(match[1])
                # All distractors are called 0 but each is another person.
                person = str(identity) if identity else f"distractor_{Path(path).stem}"
                shots.append(Shot(path, identity, side, person, match[2]))
        return shots
