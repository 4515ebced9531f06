"""PRID 2011, single-shot: persons 1 to 200 are shared, the others belong to one camera."""

from __future__ import annotations

import re
from pathlib import Path

from metabin_plugin.data.datasets.base import CrossCameraTarget, Shot
from metabin_plugin.data.datasets.scan import Release, scan_folder

LAST_SHARED = 200
CAMERAS = ("cam_a", "cam_b")


class DG_PRID(CrossCameraTarget):
    """PRID 2011 single-shot: 100 queries of camera a against 649 gallery images of camera b.

    Numbers up to 200 name the same person in both cameras; above, the same number names two
    persons.

    Reference: Hirzer et al., Person Re-Identification by Descriptive and Discriminative
    Classification, SCIA 2011.
    """

    release = Release(
        title="PRID 2011",
        layout="prid_2011/single_shot/{cam_a,cam_b}/person_0001.png or "
        "PETA dataset/PRID/archive/0001_a.png",
        home_page="Person Re-ID (PRID) Dataset 2011, TU Graz ICG",
    )
    dataset_name = "prid"
    original_folder = "prid_2011"
    peta_subset = "PRID"

    def read(self, root: Path) -> list[Shot]:
        """Return the images of both cameras."""
        pattern = re.compile(r"person_(\d+)\.")
        shots = []
        for camera, name in enumerate(CAMERAS):
            folder = root / "prid_2011" / "single_shot" / name
            for path, match in scan_folder(self.release, folder, ".png", pattern):
                shots.append(_shot(path, int(match[1]), camera))
        return shots

    def read_peta(self, archive: Path) -> list[Shot]:
        """Return the images of the one folder, with the numbers of the original release."""
        pattern = re.compile(r"(\d+)_([ab])\.")
        return [
            # There a stranger of camera b whose number camera a has too is moved by 1000.
            _shot(path, int(match[1]) % 1000, "ab".index(match[2]))
            for path, match in scan_folder(self.release, archive, ".png", pattern)
        ]


def _shot(path: str, number: int, camera: int) -> Shot:
    name = CAMERAS[camera]
    if number <= LAST_SHARED:
        return Shot(path, number, camera, str(number), name)
    # Only camera-a strangers need another number than their own: they are never in a split.
    identity = number if camera else -number
    return Shot(path, identity, camera, f"{name}_{number}", name)
