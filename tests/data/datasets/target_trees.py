"""The four target datasets as empty files under the exact names of their two releases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_VIPER_GAPS = [
    *((247, 299), (349, 349), (352, 352), (356, 356), (363, 363), (396, 499), (530, 530)),
    *((559, 559), (586, 586), (602, 602), (644, 644), (663, 663), (665, 665), (668, 668)),
    *((681, 681), (688, 688), (691, 691), (694, 695), (704, 704), (710, 710), (712, 712)),
    *((718, 719), (727, 727), (730, 730), (739, 739), (742, 799), (810, 810), (857, 857)),
]
# The person numbers of VIPeR are not contiguous.
VIPER_PEOPLE = [n for n in range(874) if not any(a <= n <= b for a, b in _VIPER_GAPS)]

# Images of each of the 119 people of i-LIDS.
ILIDS_IMAGES = [
    int(count)
    for count in "44334422445533772266336688665388557766663666553334455443333334455333333335"
    "544446644222233222222226622222444334335523344"
]


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def viper(root: Path) -> None:
    for side, angle in (("cam_a", 45), ("cam_b", 135)):
        touch(root / "VIPeR" / side, *(f"{n:03d}_{angle}.bmp" for n in VIPER_PEOPLE))
        touch(root / "VIPeR" / side, "Thumbs.db")
    touch(root / "VIPeR", "README.txt")


def viper_peta(root: Path) -> None:
    archive = root / "PETA dataset/VIPeR/archive"
    for camera, angle in ((1, 45), (2, 135)):
        touch(archive, *(f"{n:03d}_{angle}_{camera}.bmp" for n in VIPER_PEOPLE))
    touch(archive, "Label.txt")


def prid(root: Path) -> None:
    folder = root / "prid_2011/single_shot"
    touch(folder / "cam_a", *(f"person_{n:04d}.png" for n in range(1, 386)))
    touch(folder / "cam_b", *(f"person_{n:04d}.png" for n in range(1, 750)))
    touch(root / "prid_2011", "readme.txt")


def prid_peta(root: Path) -> None:
    archive = root / "PETA dataset/PRID/archive"
    moved = [n + 1000 if 200 < n < 386 else n for n in range(1, 750)]
    touch(archive, *(f"{n:04d}_a.png" for n in range(1, 386)))
    touch(archive, *(f"{n:04d}_b.png" for n in moved), "Label.txt")


def _grid_tail(number: int) -> str:
    return f"{25000 + number}_107_32_106_221.jpeg"


def grid(root: Path) -> None:
    folder = root / "underground_reid"
    touch(folder / "probe", *(f"{n:04d}_{1 + n % 5}_{_grid_tail(n)}" for n in range(1, 251)))
    touch(folder / "gallery", *(f"{n:04d}_{2 + n % 5}_{_grid_tail(n)}" for n in range(1, 251)))
    touch(folder / "gallery", *(f"0000_{1 + n % 5}_{_grid_tail(n)}" for n in range(251, 1026)))
    touch(folder, "correspondence.txt", "readme.txt", "sample.m")


def grid_peta(root: Path) -> None:
    archive = root / "PETA dataset/GRID/archive"
    touch(archive, *(f"{n:04d}_{1 + n % 5}_{_grid_tail(n)}" for n in range(1, 1026)))
    touch(archive, *(f"{n:04d}_{2 + n % 5}_{_grid_tail(n)}" for n in range(1, 251)), "Label.txt")


def _ilids_images() -> list[tuple[int, int]]:
    return [(p, i) for p, count in enumerate(ILIDS_IMAGES, 1) for i in range(1, count + 1)]


def ilids(root: Path) -> None:
    touch(root / "i-LIDS_Pedestrian/Persons", *(f"{p:04d}{i:03d}.jpg" for p, i in _ilids_images()))


def ilids_peta(root: Path) -> None:
    archive = root / "PETA dataset/i-LID/archive"
    touch(archive, *(f"{p:04d}_{i:03d}.jpg" for p, i in _ilids_images()))
    touch(archive, "0120_001.jpg", "Label.txt")


Writer = Callable[[Path], None]
ORIGINAL: dict[str, Writer] = {"viper": viper, "prid": prid, "grid": grid, "ilids": ilids}
PETA: dict[str, Writer] = {
    "viper": viper_peta,
    "prid": prid_peta,
    "grid": grid_peta,
    "ilids": ilids_peta,
}
