"""PRID 2011, single-shot: persons 1 to 200 are shared, the others belong to one camera."""

from __future__ import annotations

import re
from pathlib import Path

from metabin_plugin.data.datasets.base import CrossCameraTarget, Shot
from metabin_plugin.data.datasets.scan import Release, scan_folder

LAST_SHARED = 200


class DG_PRID(CrossCameraTarget):
    """PRID 2011 single-shot: 100 queries of camera a against 649 gallery images of camera b.

    Numbers up to 200 name the same person in both cameras; above, the same number names two
    persons.

    Reference: Hirzer et al., Person Re-Identification by Descriptive and Discriminative
    Classification, SCIA 2011.
    """

    release = Release(
        title="PRID 2011",
        layout="prid_2011/single_shot/{cam_a,cam_b}/person_0001.png",
        home_page="Person Re-ID (PRID) Dataset 2011, TU Graz ICG",
    )
    dataset_name = "prid"

    def read(self, root: Path) -> list[Shot]:
        """Return the images of both cameras."""
        pattern = re.compile(r"person_(\d+)\.")
        shots = []
        for camera, name in enumerate(("cam_a", "cam_b")):
            folder = root / "prid_2011" / "single_shot" / name
            for path, match in scan_folder(self.release, folder, ".png", pattern):
                shots.append(_shot(path, int(match[1]), camera, name))
        return shots


def _shot(path: str, number: int, camera: int, name: str) -> Shot:
    if number <= LAST_SHARED:
        return Shot(path, number, camera, str(number), name)
    # Only camera-a strangers need another number than their own: they are never in a split.
    identity = number if camera else -number
    return Shot(path, identity, camera, f"{name}_{number}", name)
