"""QMUL GRID: eight cameras in an underground station, with distractors."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from metabin_plugin.data.datasets.base import OWN, CrossCameraTarget, Shot
from metabin_plugin.data.datasets.grid_partitions import read_partitions
from metabin_plugin.data.datasets.scan import Release, scan_folder

PATTERN = re.compile(r"(\d+)_(\d+)_")


class DG_GRID(CrossCameraTarget):
    """GRID (250 pairs, 775 distractors): 125 probes against 900 gallery images.

    Reference: Loy et al., Multi-Camera Activity Correlation Analysis, CVPR 2009.
    """

    release = Release(
        title="GRID",
        layout="underground_reid/{probe,gallery}/0001_1_25004_107_32_106_221.jpeg or "
        "PETA dataset/GRID/archive/0001_1_25004_107_32_106_221.jpeg",
        home_page="QMUL underGround Re-IDentification (GRID) Dataset, Chen Change Loy",
    )
    dataset_name = "grid"
    original_folder = "underground_reid"
    peta_subset = "GRID"

    def read(self, root: Path) -> list[Shot]:
        """Return the probe images, the gallery images and the distractors."""
        shots = []
        for side, name in enumerate(("probe", "gallery")):
            folder = root / "underground_reid" / name
            for path, match in scan_folder(self.release, folder, ".jpeg", PATTERN):
                identity = int(match[1])
                # All distractors are called 0 but each is another person.
                person = str(identity) if identity else f"distractor_{Path(path).stem}"
                shots.append(Shot(path, identity, side, person, match[2]))
        return shots

    def read_peta(self, archive: Path) -> list[Shot]:
        """Return the images of the one folder, where pairs keep their numbers.

        PETA does not say which image of a pair is the probe; it is taken to be that of the lower
        camera number. Each distractor has a number of its own there.
        """
        found = list(scan_folder(self.release, archive, ".jpeg", PATTERN))
        images = Counter(int(match[1]) for _, match in found)
        # The names are sorted, so the lower camera of a pair comes first.
        met: set[int] = set()
        shots = []
        for path, match in found:
            identity = int(match[1])
            probe = images[identity] > 1 and identity not in met
            met.add(identity)
            shots.append(Shot(path, identity, 0 if probe else 1, str(identity), match[2]))
        return shots

    def choose(
        self, shots: list[Shot], paired: list[int], unpaired: int
    ) -> tuple[str, list[list[int]]]:
        """Return the dataset's own partitions where they are, else what other targets have."""
        # Both releases keep their images one folder below.
        partitions = Path(shots[0].path).parents[1] / "features_and_partitions.mat"
        if partitions.exists():
            return OWN, read_partitions(self.release, partitions, paired)
        return super().choose(shots, paired, unpaired)
