"""The layout script, on drawn stand-ins for the public sets."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import lay_out
from lay_out import Count

SETS = {
    "Market-1501/bounding_box_train": [
        *("0002_c1s1_000451_03.jpg", "0002_c2s1_000551_01.jpg", "0007_c6s3_077419_03.jpg"),
        "Thumbs.db",
    ],
    "PETA dataset/3DPeS/archive": [
        *("100_3_FRAME_26_RGB.bmp", "100_4_FRAME_185_RGB.bmp", "72_B_459_FRAME_92_RGB.bmp"),
        "Label.txt",
    ],
    "PETA dataset/CAVIAR4REID/archive": ["0001_010.jpg", "0001_011.jpg", "0060_001.jpg"],
    "PKU-Reid": [
        *("train/001/01_1.png", "train/001/02_8.png", "val/all_imgs/004/01_1.png"),
        # The same image again.
        "val/query/004/01_1.png",
    ],
    "PETA dataset/SARC3D/archive": ["001_Right.bmp", "002_right.bmp", "001_back.bmp"],
    "PETA dataset/TownCentre/archive": ["1_1726.jpg", "1_1735.jpg", "115_2.jpg"],
}
TARGETS = {
    "PETA dataset/VIPeR/archive": [f"{n:03}_45_{c}.bmp" for n in range(4) for c in (1, 2)],
    "PETA dataset/PRID/archive": [f"{n:04}_{c}.png" for n in range(1, 5) for c in "ab"],
    "PETA dataset/GRID/archive": [f"{n:04}_{c}_1_2_3_4.jpeg" for n in range(1, 5) for c in (1, 2)],
    "PETA dataset/i-LID/archive": [f"{n:04}_{i:03}.jpg" for n in range(1, 5) for i in (1, 2)],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for folder, names in {**SETS, **TARGETS}.items():
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in (".db", ".txt"):
                path.write_text("no image")
            else:
                Image.new("RGB", (4, 8)).save(path)
    return tmp_path


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        lay_out.main([str(argument) for argument in arguments])
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return int(code or 0)


def rows(manifest: Path) -> list[tuple[str, str, str]]:
    with manifest.open(newline="") as file:
        return [(row["path"], row["pid"], row["camid"]) for row in csv.DictReader(file)]


EXPECTED: dict[str, list[tuple[str, str, str]]] = {
    "Market1501": [
        ("../Market-1501/bounding_box_train/0002_c1s1_000451_03.jpg", "0002", "1"),
        ("../Market-1501/bounding_box_train/0002_c2s1_000551_01.jpg", "0002", "2"),
        ("../Market-1501/bounding_box_train/0007_c6s3_077419_03.jpg", "0007", "6"),
    ],
    "3DPeS": [
        ("../PETA dataset/3DPeS/archive/100_3_FRAME_26_RGB.bmp", "100", "3"),
        ("../PETA dataset/3DPeS/archive/100_4_FRAME_185_RGB.bmp", "100", "4"),
        ("../PETA dataset/3DPeS/archive/72_B_459_FRAME_92_RGB.bmp", "72", "459"),
    ],
    "CAVIAR": [
        ("../PETA dataset/CAVIAR4REID/archive/0001_010.jpg", "0001", "A"),
        ("../PETA dataset/CAVIAR4REID/archive/0001_011.jpg", "0001", "B"),
        ("../PETA dataset/CAVIAR4REID/archive/0060_001.jpg", "0060", "A"),
    ],
    "PKU": [
        ("../PKU-Reid/train/001/01_1.png", "001", "01"),
        ("../PKU-Reid/train/001/02_8.png", "001", "02"),
        ("../PKU-Reid/val/all_imgs/004/01_1.png", "004", "01"),
    ],
    # Person 1 of the one is not person 1 of the other.
    "SARC3D-TownCentre": [
        ("../PETA dataset/SARC3D/archive/001_Right.bmp", "SARC3D_001", "SARC3D_right"),
        ("../PETA dataset/SARC3D/archive/001_back.bmp", "SARC3D_001", "SARC3D_back"),
        ("../PETA dataset/SARC3D/archive/002_right.bmp", "SARC3D_002", "SARC3D_right"),
        ("../PETA dataset/TownCentre/archive/115_2.jpg", "TownCentre_115", "TownCentre_1"),
        ("../PETA dataset/TownCentre/archive/1_1726.jpg", "TownCentre_1", "TownCentre_1"),
        ("../PETA dataset/TownCentre/archive/1_1735.jpg", "TownCentre_1", "TownCentre_1"),
    ],
    "SARC3D": [
        ("../PETA dataset/SARC3D/archive/001_Right.bmp", "001", "right"),
        ("../PETA dataset/SARC3D/archive/001_back.bmp", "001", "back"),
        ("../PETA dataset/SARC3D/archive/002_right.bmp", "002", "right"),
    ],
    "TownCentre": [
        ("../PETA dataset/TownCentre/archive/115_2.jpg", "115", "1"),
        ("../PETA dataset/TownCentre/archive/1_1726.jpg", "1", "1"),
        ("../PETA dataset/TownCentre/archive/1_1735.jpg", "1", "1"),
    ],
}


@pytest.mark.parametrize("domain", EXPECTED)
def test_a_manifest_names_every_image_with_its_person_and_camera(data: Path, domain: str) -> None:
    # The stand-ins of the targets are refused after the manifests are written.
    assert run(data) == 1
    assert rows(data / "sources" / f"{domain}.csv") == EXPECTED[domain]


def test_folders_may_be_links(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for number, folder in enumerate((*SETS, "PKU-Reid/train", "PKU-Reid/val/all_imgs")):
        if folder != "PKU-Reid":
            (data / folder).rename(elsewhere / str(number))
            (data / folder).symlink_to(elsewhere / str(number))
    assert run(data) == 1
    assert {domain: rows(data / "sources" / f"{domain}.csv") for domain in EXPECTED} == EXPECTED


def test_a_folder_that_cannot_be_written_is_one_sentence(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "sources").write_text("a file")
    assert run(data) == 1
    error = capsys.readouterr().err
    assert "sources/Market1501.csv cannot be written (" in error and error.count("\n") == 1


@pytest.fixture
def any_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins pass for the benchmark's targets."""
    monkeypatch.setattr(lay_out, "FROZEN", "seeded")


SMALL = {
    "Market1501": Count(3, 2, 3),
    "3DPeS": Count(3, 2, 3),
    "CAVIAR": Count(3, 2, 2),
    "PKU": Count(3, 2, 2),
    "SARC3D-TownCentre": Count(6, 4, 3),
    "SARC3D": Count(3, 2, 2),
    "TownCentre": Count(3, 2, 1),
    "DG_VIPeR": Count(8, 4, 2),
    "DG_PRID": Count(8, 4, 2),
    "DG_GRID": Count(8, 4, 2),
    "DG_iLIDS": Count(8, 4, 1),
}


@pytest.mark.usefixtures("any_splits")
def test_what_is_there_is_counted_and_compared(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lay_out, "COUNTS", SMALL)
    assert run(data) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "CAVIAR: 3 images, 2 identities, 2 cameras" in printed
    assert len(printed) == len(SMALL)
    # An image that is missing since.
    (data / "PETA dataset/TownCentre/archive/115_2.jpg").unlink()
    assert run(data) == 1
    assert (
        "SARC3D-TownCentre: 5 images, 3 identities, 3 cameras, but there should be 6 images, "
        "4 identities, 3 cameras"
    ) in capsys.readouterr().out


@pytest.mark.usefixtures("any_splits")
def test_check_writes_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lay_out, "COUNTS", SMALL)
    assert run(data, "--check") == 1
    assert not (data / "sources").exists()
    run(data)
    written = {path: path.stat().st_mtime_ns for path in (data / "sources").iterdir()}
    assert run(data, "--check") == 0
    assert {path: path.stat().st_mtime_ns for path in (data / "sources").iterdir()} == written


def other_people(data: Path) -> str:
    return "holds another VIPeR than the benchmark, whose ten splits do not fit; put VIPeR/cam_a"


def no_market(data: Path) -> str:
    folder = data / "Market-1501/bounding_box_train"
    for path in folder.glob("*.jpg"):
        path.unlink()
    return f"{folder} holds no image of Market-1501; put the folder bounding_box_train"


@pytest.mark.parametrize("spoil", [other_people, no_market])
def test_what_is_missing_is_named(
    data: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], str]
) -> None:
    sentence = spoil(data)
    assert run(data) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("error: ") == 1
