"""Cropping CUHK-SYSU from a release in its layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import crop_cuhk_sysu
from metabin_plugin.data.datasets import DG_CUHKSYSU, cuhk
from metabin_plugin.errors import DatasetError

Appearances = list[tuple[str, tuple[int, int, int, int]]]

# Person 2 appears once; person 11934 twice in one scene, once cut off by its border.
PEOPLE: dict[str, Appearances] = {
    "p1": [("s3.jpg", (2, 1, 10, 20)), ("s17.jpg", (0, 0, 32, 16))],
    "p2": [("s3.jpg", (40, 30, 8, 18))],
    "p11934": [("s17.jpg", (20, 8, 40, 90)), ("s17.jpg", (-4, 8, 12, 24))],
}
SIZES = {"s3.jpg": (48, 64), "s17.jpg": (48, 40)}
CROPS = {
    "p1_s3_1.jpg": (2, 1, 12, 21),
    "p1_s17_2.jpg": (0, 0, 32, 16),
    "p2_s3_1.jpg": (40, 30, 48, 48),
    "p11934_s17_1.jpg": (20, 8, 48, 40),
    "p11934_s17_2.jpg": (0, 8, 8, 32),
}


def struct(*fields: str, rows: list[tuple[object, ...]]) -> np.ndarray:
    """A struct array as MATLAB keeps it: 1 x N."""
    array = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for index, row in enumerate(rows):
        array[0, index] = row
    return array


def write_person_mat(path: Path, people: dict[str, Appearances]) -> None:
    entries: list[tuple[object, ...]] = []
    for name, appearances in people.items():
        scenes = struct(
            "imname",
            "idlocate",
            "ishard",
            rows=[
                (scene, np.array([box], np.int32), np.uint8(number % 2))
                for number, (scene, box) in enumerate(appearances)
            ],
        )
        entries.append((name, np.uint8(len(appearances)), scenes))
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"Person": struct("idname", "nAppear", "scene", rows=entries)})


def scene(name: str) -> np.ndarray:
    """Smooth colours, which JPEG hardly changes."""
    width, height = SIZES[name]
    rows, columns = np.mgrid[0:height, 0:width]
    blue = np.full_like(rows, 40 * len(name) % 256)
    return np.stack([3 * rows, 5 * columns, blue], axis=2).astype(np.uint8)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The folder of the release."""
    folder = tmp_path / "release"
    write_person_mat(folder / "annotation/Person.mat", PEOPLE)
    (folder / "Image/SSM").mkdir(parents=True)
    exif = Image.Exif()
    # On its side, as a telephone says it; the boxes are those of the pixels as they are stored.
    exif[0x0112] = 6
    for name in SIZES:
        Image.fromarray(scene(name)).save(folder / "Image/SSM" / name, quality=100, exif=exif)
    return folder


def crops(root: Path) -> Path:
    return root / "cuhk_sysu/cropped_images"


def test_every_box_of_every_person(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "datasets"
    crop_cuhk_sysu.main([str(release), str(root)])
    assert {path.name for path in crops(root).iterdir()} == CROPS.keys()
    for name, (left, top, right, bottom) in CROPS.items():
        with Image.open(crops(root) / name) as image:
            assert image.format == "JPEG"
            found = np.asarray(image).astype(int)
        expected = scene(f"{name.split('_')[1]}.jpg").astype(int)[top:bottom, left:right]
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 8
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "DG_CUHKSYSU: 3 identities, 5 images (published: 11,934 identities, 34,574 images)"
    )
    assert lines[1].startswith("warning: ")
    train = DG_CUHKSYSU(root=str(root)).train
    assert sorted(item[1] for item in train) == sorted(
        f"cuhksysu_{who}" for who in (1, 1, 2, 11934, 11934)
    )


def test_one_person_in_one_scene(release: Path, tmp_path: Path) -> None:
    write_person_mat(release / "annotation/Person.mat", {"p2": PEOPLE["p2"]})
    crop_cuhk_sysu.main([str(release), str(tmp_path)])
    assert [path.name for path in crops(tmp_path).iterdir()] == ["p2_s3_1.jpg"]


def test_a_broken_off_run_continues(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = release / "Image/SSM/s17.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"s17\.jpg is missing or cannot be read"):
        crop_cuhk_sysu.main([str(release), str(tmp_path)])
    with pytest.raises(DatasetError, match="cropped_images is missing"):
        DG_CUHKSYSU(root=str(tmp_path))
    broken.write_bytes(whole)
    written: list[str] = []
    replace_file = cuhk.replace_file

    def write(path: Path, content: object) -> None:
        written.append(path.name)
        replace_file(path, content)

    monkeypatch.setattr(cuhk, "replace_file", write)
    crop_cuhk_sysu.main([str(release), str(tmp_path)])
    assert set(written) == {name for name in CROPS if "_s17_" in name}
    crop_cuhk_sysu.main([str(release), str(tmp_path)])
    assert len(written) == 3
    assert len(DG_CUHKSYSU(root=str(tmp_path)).train) == 5


@pytest.mark.parametrize("place", ["cuhk_sysu", "CUHK-SYSU/dataset"])
def test_the_reader_names_the_command(release: Path, tmp_path: Path, place: str) -> None:
    root = tmp_path / "datasets"
    (root / place).parent.mkdir(parents=True)
    release.rename(root / place)
    with pytest.raises(DatasetError) as caught:
        DG_CUHKSYSU(root=str(root))
    assert f"`python tools/crop_cuhk_sysu.py {root / place} {root}`" in str(caught.value)
    crop_cuhk_sysu.main([str(root / place), str(root)])
    assert len(DG_CUHKSYSU(root=str(root)).train) == 5


def test_a_box_outside_its_scene(release: Path, tmp_path: Path) -> None:
    write_person_mat(release / "annotation/Person.mat", {"p5": [("s3.jpg", (50, 2, 10, 10))]})
    with pytest.raises(DatasetError, match=r"p5_s3_1\.jpg \(50, 2, 10, 10\).*48 x 64 pixels"):
        crop_cuhk_sysu.main([str(release), str(tmp_path)])


@pytest.mark.parametrize(
    "content",
    [
        {"Person": 3},
        {"Person": {"idname": "p1"}},
        {"Person": {"idname": "q1", "scene": {"imname": "s1.jpg", "idlocate": [1, 1, 2, 2]}}},
        {"Person": {"idname": "p1", "scene": {"imname": "s1.jpg", "idlocate": [1, 1, 2]}}},
    ],
)
def test_an_annotation_of_another_layout(
    release: Path, tmp_path: Path, content: dict[str, object]
) -> None:
    savemat(release / "annotation/Person.mat", content)
    with pytest.raises(DatasetError, match=r"Person\.mat does not hold persons with idname"):
        crop_cuhk_sysu.main([str(release), str(tmp_path)])


def test_a_missing_annotation(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"annotation/Person\.mat is missing.*Tong Xiao"):
        crop_cuhk_sysu.main([str(tmp_path), str(tmp_path)])
