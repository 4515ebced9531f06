"""What the path of a photograph says, by a pattern or by a guess."""

from __future__ import annotations

import re

import pytest

from metabin_plugin.errors import DatasetError
from photographs.guess import guess_layout
from photographs.layout import Labels, Layout
from photographs.photograph import label_photographs


@pytest.mark.parametrize(
    ("pattern", "path", "labels"),
    [
        ("{camera}/{identity}/*", "yard/person 7/IMG_1.JPG", ("", "yard", "person 7", "")),
        ("{domain}/{camera}/{identity}/*", "n/c1/Jörg/a.b.png", ("n", "c1", "Jörg", "")),
        ("{identity}_c{camera}*", "0007_c12s1_000451_00.jpg", ("", "12", "0007", "")),
        ("{identity}_c{camera}*", "-1_c3s1_0.jpg", ("", "3", "-1", "")),
        ("{identity}_*.jpg", "a_b_c.jpg", ("", "", "a", "")),
        ("*_{identity}_{camera}.*", "x_3_cam.png", ("", "cam", "3", "")),
        ("{identity}/{identity}_c{camera}*", "4/4_c1.jpg", ("", "1", "4", "")),
        ("{subset}/{identity}/*", "bounding_box_test/4/x.jpg", ("", "", "4", "gallery")),
        ("a(b)+[c]/{identity}/*", "a(b)+[c]/4/x.jpg", ("", "", "4", "")),
    ],
)
def test_a_pattern_reads_names(pattern: str, path: str, labels: tuple[str, ...]) -> None:
    assert Layout(pattern).read(path) == Labels(*labels)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("{camera}/{identity}/*", "yard/x.jpg"),
        ("{camera}/{identity}/*", "site/yard/7/x.jpg"),
        ("{identity}_c{camera}*", "7_cx.jpg"),
        ("{identity}/{identity}_c{camera}*", "4/5_c1.jpg"),
        ("{identity}.jpg", "4.JPG"),
    ],
)
def test_a_path_of_another_layout_has_no_labels(pattern: str, path: str) -> None:
    assert Layout(pattern).read(path) is None


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{camera}/*", "has no {identity}"),
        ("{person}/*", "has the field {person}"),
        ("{camera}{identity}/*", "without text between"),
    ],
)
def test_a_pattern_that_cannot_work_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(words)):
        Layout(pattern)


def test_a_folder_that_is_no_subset_is_named() -> None:
    with pytest.raises(DatasetError, match=r'a\.jpg is in "val".*--exclude'):
        Layout("{subset}/{identity}/*").read("val/4/a.jpg")


def grid(pattern: str, outer: list[str], inner: list[str]) -> list[str]:
    """Paths for all pairs of names."""
    return [pattern.format(a, b) for a in outer for b in inner]


PEOPLE = ["anna", "ben", "cem"]


@pytest.mark.parametrize(
    ("paths", "pattern"),
    [
        (["0002_c1s1_000451_03.jpg", "-1_c2s1_000451_03.jpg"], "{identity}_c{camera}*"),
        (["north/2_c1.jpg", "south/2_c1.jpg"], "{domain}/{identity}_c{camera}*"),
        (["0002/0002_c1s1.jpg", "0003/0003_c1s1.jpg"], "{identity}/{identity}_c{camera}*"),
        (["2/2_c1.jpg", "2/3_c1.jpg"], "{domain}/{identity}_c{camera}*"),
        (grid("{}/{}.jpg", PEOPLE, ["1"]), "{identity}/*"),
        (grid("{}/{}/1.jpg", ["cam1", "Cam 2"], PEOPLE), "{camera}/{identity}/*"),
        (grid("{}/{}/1.jpg", ["c1"], PEOPLE), "{camera}/{identity}/*"),
        (grid("{}/{}/1.jpg", PEOPLE, ["camera_a", "camera_b"]), "{identity}/{camera}/*"),
        (grid("{}/{}/1.jpg", PEOPLE, ["front", "back"]), "{identity}/{camera}/*"),
        (grid("n/{}/{}/1.jpg", ["door", "yard"], PEOPLE), "{domain}/{camera}/{identity}/*"),
        (grid("n/{}/{}/1.jpg", PEOPLE, ["door", "yard"]), "{domain}/{identity}/{camera}/*"),
        (grid("n/{}/{}/1.jpg", ["c1", "c2"], ["a", "b"]), "{domain}/{camera}/{identity}/*"),
        (["train/anna/1.jpg", "query/ben/1.jpg", "gallery/ben/2.jpg"], "{subset}/{identity}/*"),
        (
            ["bounding_box_train/2_c1s1.jpg", "query/3_c1s1.jpg", "bounding_box_test/3_c2s1.jpg"],
            "{subset}/{identity}_c{camera}*",
        ),
    ],
)
def test_usual_layouts_are_recognized(paths: list[str], pattern: str) -> None:
    layout = guess_layout(paths)
    assert str(layout) == pattern
    assert all(layout.read(path) for path in paths)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        # Three cameras, or three places that count their people from 1?
        (
            grid("{}/{}/1.jpg", ["door", "hall", "yard"], ["1", "2", "3", "4"]),
            r"\{camera\}/\{identity\}/\* \(3 cameras and 4 people, 4 of them seen by several\) or "
            r"\{domain\}/\{identity\}/\* \(3 domains and 12 people\); say which by --layout",
        ),
        (["north/anna/1.jpg", "south/ben/1.jpg"], "2 cameras and 2 people, 0 of them"),
        (grid("{}/{}/1.jpg", ["c1", "c2"], ["c1", "c2", "c3"]), "2 cameras and 3 people"),
        (grid("n/{}/{}/1.jpg", ["a", "b"], ["x", "y"]), "folders of 2 and 2 names"),
        (["anna.jpg", "ben.jpg"], "none of the usual layouts"),
        (["a/b/c/d/1.jpg"], "none of the usual layouts"),
        (["a/1.jpg", "a/b/1.jpg"], r"a/1\.jpg and a/b/1\.jpg are not equally many folders deep"),
    ],
)
def test_what_is_not_clear_is_asked(paths: list[str], words: str) -> None:
    with pytest.raises(DatasetError, match=words) as caught:
        guess_layout(paths)
    assert "--layout" in str(caught.value)


def test_junk_and_excluded_paths_are_left_out() -> None:
    paths = ["1_c1.jpg", "2_c1.jpg", "-1_c1.jpg", "old/3.jpg"]
    layout, photographs = label_photographs(paths, exclude=["old/*"])
    assert str(layout) == "{identity}_c{camera}*"
    assert [photograph.path for photograph in photographs] == paths[:2]


@pytest.mark.parametrize(
    ("paths", "pattern", "exclude", "words"),
    [
        (["a/1.jpg", "b/1.jpg"], "", ["*"], "All 2 images are left out"),
        (["a/1.jpg", "b/1.jpg", "c.jpg"], "{identity}/*", [], r"1 of 3 images .*c\.jpg for ex"),
        (["a/1.jpg", "a/2.jpg"], "", [], "show one person"),
    ],
)
def test_photographs_that_give_no_labels_are_refused(
    paths: list[str], pattern: str, exclude: list[str], words: str
) -> None:
    with pytest.raises(DatasetError, match=words):
        label_photographs(paths, pattern, exclude)
