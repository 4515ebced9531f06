"""Extracting CUHK03 from a file in the layout of cuhk-03.mat."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import pytest
from PIL import Image

import extract_cuhk03
from metabin_plugin.data.datasets import DG_CUHK03, DG_CUHK03_Labeled, cuhk, mat_files
from metabin_plugin.errors import DatasetError
from tests.processes import within

Pictures = dict[str, np.ndarray]

# Persons of each camera pair, and the images (from 1) that each of them has.
PAIRS = ([[1, 2, 6, 10], [3, 7]], [[5, 8]], [[1, 9]], [[4, 6]], [[2, 6], [1], [10]])


class MatWriter:
    """Writes what MATLAB 7.3 writes for cells: references into a hidden group."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.hidden = file.create_group("#refs#")

    def store(self, array: np.ndarray, **attributes: object) -> h5py.Reference:
        dataset = self.hidden.create_dataset(f"d{len(self.hidden)}", data=array)
        dataset.attrs.update(attributes)
        return dataset.ref

    def image(self, pixels: np.ndarray) -> h5py.Reference:
        return self.store(np.asfortranarray(pixels).T, MATLAB_class=np.bytes_("uint8"))

    def empty(self) -> h5py.Reference:
        size = np.zeros(2, np.uint64)
        return self.store(size, MATLAB_class=np.bytes_("double"), MATLAB_empty=np.uint8(1))

    def cell(self, entries: np.ndarray) -> h5py.Reference:
        """Store a cell of references; HDF5 has its rows and columns the other way round."""
        name = f"d{len(self.hidden)}"
        return self.hidden.create_dataset(name, data=entries.T, dtype=h5py.ref_dtype).ref


def pictures(seed: int) -> Pictures:
    """All pictures by file name, each of another size."""
    random = np.random.default_rng(seed)
    found = {}
    for pair, people in enumerate(PAIRS, start=1):
        for person, images in enumerate(people, start=1):
            for number in images:
                name = f"{pair}_{person:03d}_{1 if number <= 5 else 2}_{number:02d}.png"
                height, width = random.integers(3, 9, 2)
                found[name] = random.integers(0, 256, (height, width, 3), np.uint8)
    return found


def write_boxes(writer: MatWriter, boxes: str, found: Pictures) -> None:
    pairs = np.empty((len(PAIRS), 1), dtype=h5py.ref_dtype)
    for pair, people in enumerate(PAIRS, start=1):
        cell = np.empty((len(people), 10), dtype=h5py.ref_dtype)
        for person in range(len(people)):
            for number in range(10):
                view = 1 if number < 5 else 2
                pixels = found.get(f"{pair}_{person + 1:03d}_{view}_{number + 1:02d}.png")
                cell[person, number] = writer.empty() if pixels is None else writer.image(pixels)
        pairs[pair - 1, 0] = writer.cell(cell)
    writer.file.create_dataset(boxes, data=pairs.T, dtype=h5py.ref_dtype)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Folder of the release with both kinds of boxes."""
    folder = tmp_path / "cuhk03_release"
    folder.mkdir()
    with h5py.File(folder / "cuhk-03.mat", "w", userblock_size=512) as file:
        writer = MatWriter(file)
        write_boxes(writer, "detected", pictures(0))
        write_boxes(writer, "labeled", pictures(1))
    return folder


def extracted(root: Path, boxes: str) -> Iterator[tuple[str, np.ndarray]]:
    for path in (root / f"cuhk03/images_{boxes}").iterdir():
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            yield path.name, np.asarray(image)


@pytest.mark.parametrize("as_file", [False, True])
def test_images_are_pixel_exact(
    release: Path, tmp_path: Path, as_file: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "datasets"
    extract_cuhk03.main([str(release / "cuhk-03.mat" if as_file else release), str(root)])
    for seed, boxes in enumerate(("detected", "labeled")):
        expected = pictures(seed)
        found = dict(extracted(root, boxes))
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        assert not (root / f"cuhk03/images_{boxes}.partial").exists()
    lines = capsys.readouterr().out.splitlines()
    counted = "8 identities, 16 images (published: 1,467 identities, {} images)"
    assert lines[0] == f"DG_CUHK03: {counted.format('14,097')}"
    assert lines[1].startswith("warning: the release is not the one of the benchmark")
    assert lines[2] == f"DG_CUHK03_Labeled: {counted.format('14,096')}"


def test_the_reader_finds_persons_and_views(release: Path, tmp_path: Path) -> None:
    extract_cuhk03.main([str(release), str(tmp_path), "--boxes", "detected"])
    train = DG_CUHK03(root=str(tmp_path)).train
    assert {(who, camera) for _, who, camera in train if who == "cuhk03_P1_2"} == {
        ("cuhk03_P1_2", "cuhk03_P1_cam1"),
        ("cuhk03_P1_2", "cuhk03_P1_cam2"),
    }
    assert not (tmp_path / "cuhk03/images_labeled").exists()


def test_a_broken_off_run_continues(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "datasets"
    written: list[Path] = []
    places_left = 7
    replace_file = cuhk.replace_file

    def write(path: Path, content: Callable[[BinaryIO], object]) -> None:
        if len(written) == places_left:
            raise OSError(28, "No space left on device")
        written.append(path)
        replace_file(path, content)

    monkeypatch.setattr(cuhk, "replace_file", write)
    arguments = [str(release), str(root), "--boxes", "detected"]
    with pytest.raises(DatasetError, match=r"cannot be written \(No space left on device\)"):
        extract_cuhk03.main(arguments)
    # Half a folder is not taken for the dataset.
    with pytest.raises(DatasetError, match="images_detected is missing"):
        DG_CUHK03(root=str(root))
    places_left = 16
    extract_cuhk03.main(arguments)
    assert len(set(written)) == len(written) == 16
    assert dict(extracted(root, "detected")).keys() == pictures(0).keys()
    extract_cuhk03.main(arguments)
    assert len(written) == 16


def test_foreign_images_in_the_folder_are_told(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(release), str(tmp_path), "--boxes", "labeled"]
    extract_cuhk03.main(arguments)
    (tmp_path / "cuhk03/images_labeled/4_077_1_01.png").touch()
    capsys.readouterr()
    extract_cuhk03.main(arguments)
    text = capsys.readouterr().out
    assert "DG_CUHK03_Labeled: 9 identities, 17 images" in text
    assert "warning: the release holds 8 identities, 16 images" in text


@pytest.mark.parametrize("place", ["cuhk03/cuhk03_release", "cuhk03_release", "cuhk03"])
@pytest.mark.parametrize("dataset", [DG_CUHK03, DG_CUHK03_Labeled])
def test_the_reader_names_the_command(
    release: Path, tmp_path: Path, place: str, dataset: type[DG_CUHK03]
) -> None:
    root = tmp_path / "my datasets"
    path = root / place / "cuhk-03.mat"
    path.parent.mkdir(parents=True)
    (release / "cuhk-03.mat").rename(path)
    with pytest.raises(DatasetError) as caught:
        dataset(root=str(root))
    command = f"`python tools/extract_cuhk03.py '{path}' '{root}'`"
    assert command in str(caught.value)
    extract_cuhk03.main([str(path), str(root)])
    assert len(dataset(root=str(root)).train) == 16


def test_without_h5py(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="package h5py, which is not installed; run `pip"):
        extract_cuhk03.main([str(release), str(tmp_path)])


def test_files_that_are_not_the_release(release: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"absent/cuhk-03\.mat is missing.*Xiaogang Wang"):
        extract_cuhk03.main([str(tmp_path / "absent"), str(tmp_path)])
    other = tmp_path / "other.mat"
    other.write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(DatasetError, match="damaged or no MATLAB file of version 7"):
        extract_cuhk03.main([str(other), str(tmp_path)])
    with h5py.File(other, "w") as file:
        file["labeled"] = 1
    with pytest.raises(DatasetError, match="has no cell 'detected'"):
        extract_cuhk03.main([str(other), str(tmp_path)])
    with h5py.File(other, "w") as file:
        writer = MatWriter(file)
        pair = writer.cell(np.full((2, 4), writer.empty(), dtype=h5py.ref_dtype))
        pairs = np.full((1, 1), pair, dtype=h5py.ref_dtype)
        file.create_dataset("detected", data=pairs, dtype=h5py.ref_dtype)
    with pytest.raises(DatasetError, match=r"camera pair 1 of detected the shape \(2, 4\)"):
        extract_cuhk03.main([str(other), str(tmp_path)])


def with_image(file: h5py.File, image: h5py.Reference) -> None:
    """Make a release of one person with one image, and nine empty cells."""
    writer = MatWriter(file)
    cell = np.full((1, 10), writer.empty(), dtype=h5py.ref_dtype)
    cell[0, 0] = image
    pairs = np.full((1, 1), writer.cell(cell), dtype=h5py.ref_dtype)
    file.create_dataset("detected", data=pairs, dtype=h5py.ref_dtype)


def external_link(file: h5py.File, elsewhere: str) -> None:
    file["detected"] = h5py.ExternalLink(elsewhere, "/detected")


def link_through_a_group(file: h5py.File, elsewhere: str) -> None:
    file["group"] = h5py.ExternalLink(elsewhere, "/")
    file["detected"] = h5py.SoftLink("/group/detected")


def image_elsewhere(file: h5py.File, elsewhere: str) -> None:
    stored = [(elsewhere, 0, 60)]
    with_image(file, file.create_dataset("image", (3, 5, 4), np.uint8, external=stored).ref)


def cell_elsewhere(file: h5py.File, elsewhere: str) -> None:
    file.create_dataset("detected", (1, 1), h5py.ref_dtype, external=[(elsewhere, 0, 8)])


def virtual_image(file: h5py.File, elsewhere: str) -> None:
    layout = h5py.VirtualLayout((3, 5, 4), np.uint8)
    layout[:] = h5py.VirtualSource(elsewhere, "image", (3, 5, 4))
    with_image(file, file.create_virtual_dataset("image", layout).ref)


def virtual_image_without_an_end(file: h5py.File, elsewhere: str) -> None:
    layout = h5py.VirtualLayout((3, 5, 4), np.uint8, maxshape=(None, 5, 4))
    source = h5py.VirtualSource(elsewhere, "image", (3, 5, 4), maxshape=(None, 5, 4))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    with_image(file, file.create_virtual_dataset("image", layout).ref)


def too_large(file: h5py.File, elsewhere: str) -> None:
    shape = (3, 100_000, 100_000)
    with_image(file, file.create_dataset("image", shape, np.uint8, chunks=(1, 64, 64)).ref)


def one_image_many_times(file: h5py.File, elsewhere: str) -> None:
    writer = MatWriter(file)
    shape = (3, 2000, 2000)
    image = file.create_dataset("image", shape, np.uint8, chunks=(1, 2000, 2000)).ref
    cell = np.full((1000, 10), image, dtype=h5py.ref_dtype)
    pairs = np.full((1, 1), writer.cell(cell), dtype=h5py.ref_dtype)
    file.create_dataset("detected", data=pairs, dtype=h5py.ref_dtype)


def numbers_for_pixels(file: h5py.File, elsewhere: str) -> None:
    with_image(file, file.create_dataset("image", data=np.zeros((3, 5, 4))).ref)


def group_for_an_image(file: h5py.File, elsewhere: str) -> None:
    with_image(file, file.create_group("image").ref)


def numbers_for_a_cell(file: h5py.File, elsewhere: str) -> None:
    file["detected"] = np.zeros((1, 5))


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (external_link, "takes data from another file"),
        (link_through_a_group, "takes data from another file"),
        (image_elsewhere, "takes data from another file"),
        (cell_elsewhere, "takes data from another file"),
        (virtual_image, "takes data from another file"),
        (virtual_image_without_an_end, "takes data from another file"),
        (too_large, "too large"),
        (one_image_many_times, "much more than its size"),
        (numbers_for_pixels, "has no picture at 1_001_1_01.png"),
        (group_for_an_image, "something else where arrays should be"),
        (numbers_for_a_cell, "something else where cells should be"),
    ],
)
def test_a_release_that_is_made_to_do_harm(
    tmp_path: Path, make: Callable[[h5py.File, str], None], sentence: str, pipe: bool
) -> None:
    elsewhere = tmp_path / "private.h5"
    if pipe:
        # Whoever opens it waits for ever.
        os.mkfifo(elsewhere)
    else:
        with h5py.File(elsewhere, "w") as file:
            image = file.create_dataset("image", data=np.full((3, 5, 4), 7, np.uint8))
            with_image(file, image.ref)
    release = tmp_path / "release" / "cuhk-03.mat"
    release.parent.mkdir()
    with h5py.File(release, "w") as file:
        make(file, str(elsewhere))
    with pytest.raises(DatasetError, match=sentence):
        extract_cuhk03.main([str(release), str(tmp_path), "--boxes", "detected"])
    assert not list(tmp_path.rglob("*.png")) or make is one_image_many_times


def changed(content: bytes, seed: int) -> bytes:
    """A file of which some bytes are others, or the end is missing."""
    draw = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        damaged[draw.randrange(len(damaged))] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
    return bytes(damaged[: draw.randrange(len(damaged))] if seed % 8 == 7 else damaged)


def extracts_or_refuses(release: Path, root: Path, seeds: Sequence[int]) -> None:
    content = (release / "cuhk-03.mat").read_bytes()
    # Of the user block nothing is read.
    head, rest = content[:512], content[512:]
    refused = 0
    for seed in seeds:
        (release / "cuhk-03.mat").write_bytes(head + changed(rest, seed))
        with within(20, mat_files._PATIENCE):
            try:
                extract_cuhk03.main([str(release), str(root / str(seed)), "--boxes", "detected"])
            except DatasetError as error:
                refused += 1
                assert "cuhk-03.mat" in str(error) or "images_detected" in str(error)
    assert refused


def test_damaged_releases_are_refused_or_read(release: Path, tmp_path: Path) -> None:
    extracts_or_refuses(release, tmp_path, range(8))


@pytest.mark.slow
def test_many_damaged_releases_are_refused_or_read(release: Path, tmp_path: Path) -> None:
    extracts_or_refuses(release, tmp_path, range(8, 58))
