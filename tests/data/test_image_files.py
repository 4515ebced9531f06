"""Which files below a folder are images."""

from __future__ import annotations

from pathlib import Path

import pytest

from metabin_plugin.data.image_files import find_files
from metabin_plugin.data.readable import read_rgb
from metabin_plugin.errors import DatasetError


def test_files_are_told_apart_by_their_suffix(tmp_path: Path) -> None:
    names = ["b/1.JPG", "b/2.webp", "a.png", "b/IMG.HEIC", "x.CR2", "Thumbs.db", "notes"]
    for name in (*names, "b/.x.png", ".hidden/y.png", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files(str(tmp_path))
    assert found.images == ["a.png", "b/1.JPG", "b/2.webp"]
    assert found.others == ["Thumbs.db", "b/IMG.HEIC", "notes", "x.CR2"]
    assert found.foreign() == ["b/IMG.HEIC", "x.CR2"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        find_files(str(tmp_path / "absent"))
    assert caught.value.filename == str(tmp_path / "absent")


def test_a_photograph_that_pillow_does_not_know_is_to_be_converted(tmp_path: Path) -> None:
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DatasetError, match=r"IMG_1\.HEIC .*does not read; convert it to JPEG\.$"):
        read_rgb(str(path))
    path.write_bytes(b"")
    with pytest.raises(DatasetError, match="is empty; restore"):
        read_rgb(str(path))
