"""The paper's four small targets, each over ten random splits: VIPeR, PRID, GRID and i-LIDS."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from metabin_plugin.data.datasets.base import (
    FROZEN,
    OWN,
    SEEDED,
    CrossCameraTarget,
    Release,
    Shot,
    TargetDataset,
    scan_folder,
)
from metabin_plugin.data.datasets.mat_files import read_mat
from metabin_plugin.data.splits import NUM_SPLITS, Split, frozen_splits, one_camera_split
from metabin_plugin.errors import DatasetError

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
                shots.append(_viper_shot(path, int(match[1]), camera))
        return shots

    def read_peta(self, archive: Path) -> list[Shot]:
        """Return the images of the one folder, where persons keep their numbers."""
        pattern = re.compile(r"(\d+)_\d+_([12])\.")
        return [
            _viper_shot(path, int(match[1]), int(match[2]) - 1)
            for path, match in scan_folder(self.release, archive, ".bmp", pattern)
        ]


def _viper_shot(path: str, identity: int, camera: int) -> Shot:
    return Shot(path, identity, camera, str(identity), CAMERAS[camera])


LAST_SHARED_OF_PRID = 200


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
                shots.append(_prid_shot(path, int(match[1]), camera))
        return shots

    def read_peta(self, archive: Path) -> list[Shot]:
        """Return the images of the one folder, with the numbers of the original release."""
        pattern = re.compile(r"(\d+)_([ab])\.")
        return [
            # There a stranger of camera b whose number camera a has too is moved by 1000.
            _prid_shot(path, int(match[1]) % 1000, "ab".index(match[2]))
            for path, match in scan_folder(self.release, archive, ".png", pattern)
        ]


def _prid_shot(path: str, number: int, camera: int) -> Shot:
    name = CAMERAS[camera]
    if number <= LAST_SHARED_OF_PRID:
        return Shot(path, number, camera, str(number), name)
    # Only camera-a strangers need another number than their own: they are never in a split.
    identity = number if camera else -number
    return Shot(path, identity, camera, f"{name}_{number}", name)


def read_partitions(release: Release, path: Path, paired: Sequence[int]) -> list[list[int]]:
    """Read GRID's own partitions of the paired identities into training and testing.

    Args:
        release: GRID, for the error texts.
        path: ``features_and_partitions.mat``. Its ``trainIdxAll`` is a cell array with a struct
            for each partition, whose ``personIdx`` are the training identities.
        paired: the identities that both sides have.

    Returns:
        For each partition the identities that are not for training, in ascending order.

    Raises:
        DatasetError: the file cannot be read or has not ten partitions of these identities.
    """
    cells = read_mat(release, path, ["trainIdxAll"])["trainIdxAll"]
    try:
        partitions = [{int(person) for person in cell["personIdx"]} for cell in cells]
    # The variable is not of the shape it has in the release.
    except (IndexError, KeyError, OverflowError, TypeError, ValueError):
        partitions = []
    people = set(paired)
    if len(partitions) != NUM_SPLITS or not all(part < people for part in partitions):
        raise DatasetError(
            f"{release.title}: {path} does not part the {len(people)} pairs of its images in ten "
            "ways; restore the file or the images, or remove it to use the seeded splits"
        )
    return [sorted(people - part) for part in partitions]


_ILIDS_NAME = re.compile(r"(\d+)_(\d+)_")


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
            for path, match in scan_folder(self.release, folder, ".jpeg", _ILIDS_NAME):
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
        found = list(scan_folder(self.release, archive, ".jpeg", _ILIDS_NAME))
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


NOT_IN_ORIGINAL_ILIDS = 120


class DG_iLIDS(TargetDataset):
    """QMUL i-LIDS (119 identities, 476 images): 60 queries against 60 gallery images.

    Reference: Zheng et al., Associating Groups of People, BMVC 2009.
    """

    release = Release(
        title="QMUL i-LIDS",
        layout="i-LIDS_Pedestrian/Persons/0001001.jpg (4 digits person, 3 digits image) or "
        "PETA dataset/i-LID/archive/0001_001.jpg",
        home_page="QMUL i-LIDS Person Re-identification Dataset, Wei-Shi Zheng",
    )
    dataset_name = "ilids"
    original_folder = "i-LIDS_Pedestrian"
    peta_subset = "i-LID"
    has_cameras = False

    def read(self, root: Path) -> list[Shot]:
        """Return the images of the one folder."""
        return self._scan(root / "i-LIDS_Pedestrian" / "Persons", r"(\d{4})(\d{3})\.")

    def read_peta(self, archive: Path) -> list[Shot]:
        """Return the images of the one folder, without person 120, who is none of the 119."""
        shots = self._scan(archive, r"(\d{4})_(\d{3})\.")
        return [shot for shot in shots if shot.identity != NOT_IN_ORIGINAL_ILIDS]

    def draw(self, shots: list[Shot]) -> tuple[str, list[Split]]:
        """Put one random image against another one for half of the identities."""
        identities = [s.identity for s in shots]
        counts = Counter(identities)
        numbers = [_number(s) for s in shots]
        population = [n for n, p in zip(numbers, identities, strict=True) if counts[p] > 1]
        frozen = frozen_splits(self.dataset_name, population, unpaired=0)
        if frozen is None:
            seeded = (one_camera_split(self.dataset_name, k, identities) for k in range(NUM_SPLITS))
            return SEEDED, list(seeded)
        position = {number: i for i, number in enumerate(numbers)}
        return FROZEN, [
            ([position[q] for q, _ in pairs], [position[g] for _, g in pairs]) for pairs in frozen
        ]

    def _scan(self, folder: Path, pattern: str) -> list[Shot]:
        images = scan_folder(self.release, folder, ".jpg", re.compile(pattern))
        return [Shot(path, int(match[1]), 0, str(int(match[1])), "0") for path, match in images]


def _number(shot: Shot) -> int:
    """1000 x identity + image."""
    return int(Path(shot.path).stem.replace("_", ""))
