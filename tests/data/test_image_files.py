"""Which files below a folder are images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metabin_plugin.data.images import find_files, read_rgb
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


def lay(folder: Path, *paths: str, **links: str) -> Path:
    """Empty files, and links, of which ``__`` in the name stands for ``/``."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    for name, target in links.items():
        link = folder / name.replace("__", "/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return folder


LINKS: dict[str, tuple[dict[str, str], list[str], list[str]]] = {
    "another disk": ({"cam3": "../disk/cam3"}, ["cam3/3.png", "cam3/sub/4.png"], []),
    "a chain": (
        {"cam3": "cam4", "cam4": "../disk/cam3"},
        ["cam3/3.png", "cam3/sub/4.png"],
        ["cam4"],
    ),
    "in another disk's folder": (
        {"cam3": "../linked", "../linked__more": "../disk/cam3/sub"},
        ["cam3/more/4.png"],
        [],
    ),
    "a folder of its own, before it": ({"a": "cam1"}, [], ["a"]),
    "itself": ({"cam1__again": "."}, [], ["cam1/again"]),
    "its folder": ({"cam1__up": ".."}, [], ["cam1/up"]),
    "what holds it": ({"up": "../.."}, [], ["up"]),
    "the root": ({"root": "/"}, [], ["root"]),
    "twice": ({"x": "../disk/cam3", "y": "../disk/cam3"}, ["x/3.png", "x/sub/4.png"], ["y"]),
    "a part first": (
        {"x": "../disk/cam3/sub", "y": "../disk/cam3"},
        ["x/4.png", "y/3.png"],
        ["y/sub"],
    ),
    "a loop over there": (
        {"cam3": "../linked", "../linked__back": "../photos"},
        [],
        ["cam3/back"],
    ),
    "a file": ({"cam1__3.png": "../../disk/cam3/3.png"}, ["cam1/3.png"], []),
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_to_folders_are_followed_once(tmp_path: Path, kind: str) -> None:
    links, more, left_out = LINKS[kind]
    lay(tmp_path / "disk", "cam3/3.png", "cam3/sub/4.png")
    photos = lay(tmp_path / "photos", "cam1/1.png", "cam2/2.png", **links)
    found = find_files(str(photos))
    assert found.images == sorted(["cam1/1.png", "cam2/2.png", *more])
    assert found.links == left_out
    assert all(name in found.left_out() for name in left_out)


def test_a_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    lay(tmp_path, "photos/cam1/1.png", link="photos")
    assert find_files(str(tmp_path / "link")).images == ["cam1/1.png"]


def test_what_is_not_a_file_is_no_image(tmp_path: Path) -> None:
    lay(tmp_path, "1.png", **{"dangling.png": "nowhere", "loop.png": "loop.png"})
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    found = find_files(str(tmp_path))
    assert found.images == ["1.png"]
    assert set(found.others) >= {"dangling.png", "loop.png"}


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        find_files(str(tmp_path / "absent"))
    assert caught.value.filename == str(tmp_path / "absent")


def test_a_photograph_that_pillow_does_not_know_is_to_be_converted(tmp_path: Path) -> None:
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DatasetError, match=r"IMG_1\.HEIC .*does not read; convert it to JPEG$"):
        read_rgb(str(path))
    path.write_bytes(b"")
    with pytest.raises(DatasetError, match="is empty; restore"):
        read_rgb(str(path))
