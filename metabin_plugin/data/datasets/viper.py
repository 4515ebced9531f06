"""VIPeR: one image of each person in each of two cameras."""

from __future__ import annotations

import re
from pathlib import Path

from metabin_plugin.data.datasets.base import CrossCameraTarget, Shot
from metabin_plugin.data.datasets.scan import Release, scan_folder

CAMERAS = ("cam_a", "cam_b")


class DG_VIPeR(CrossCameraTarget):
    """VIPeR (632 identities): 316 queries of camera a against 316 gallery images of camera b.

    Reference: Gray et al., Evaluating Appearance Models for Recognition, Reacquisition, and
    Tracking, PETS 2007.
    """

    release = Release(
        title="VIPeR",
        layout="VIPeR/cam_a/000_45.bmp and VIPeR/cam_b/000_90.bmp (person_angle) or "
        "PETA dataset/VIPeR/archive/000_45_1.bmp (person_angle_camera)",
        home_page="VIPeR: Viewpoint Invariant Pedestrian Recognition, UCSC Vision Lab",
    )
    dataset_name = "viper"
    original_folder = "VIPeR"
    peta_subset = "VIPeR"

    def read(self, root: Path) -> list[Shot]:
        """Return the images of both cameras."""
        pattern = re.compile(r"(\d+)_\d+\.")
        shots = []
        for camera, name in enumerate(CAMERAS):
            folder = root / "VIPeR" / name
            for path, match in scan_folder(self.release, folder, ".bmp", pattern):
                shots.append(_shot(path, int(match[1]), camera))
        return shots

    def read_peta(self, archive: Path) -> list[Shot]:
        """Return the images of the one folder, where persons keep their numbers."""
        pattern = re.compile(r"(\d+)_\d+_([12])\.")
        return [
            _shot(path, int(match[1]), int(match[2]) - 1)
            for path, match in scan_folder(self.release, archive, ".bmp", pattern)
        ]


def _shot(path: str, identity: int, camera: int) -> Shot:
    return Shot(path, identity, camera, str(identity), CAMERAS[camera])
