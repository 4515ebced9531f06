"""What the path of a photograph says, by a pattern or by a guess."""

from __future__ import annotations

import re

import pytest

from metabin_plugin.data.photographs.layout import Labels, Layout, guess_layout
from metabin_plugin.data.photographs.photograph import Labelled, label_photographs
from metabin_plugin.errors import DatasetError


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
        ("{subset}/{identity}/*", "bounding_box_test/4/x.jpg", ("", "", "4", "bounding_box_test")),
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


def grid(pattern: str, outer: list[str], inner: list[str]) -> list[str]:
    """Paths for all pairs of names."""
    return [pattern.format(a, b) for a in outer for b in inner]


PEOPLE = ["anna", "ben", "cem", "dora"]


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
        # Files' names may tell the people of the folders, and phones' names tell nobody.
        (["0001/person_1_a.png", "0002/person_2_a.png"], "{identity}/*"),
        (grid("{}/{}.jpg", PEOPLE, ["IMG_0001", "20230101_120000"]), "{identity}/*"),
        (["north/2/2_c1s1.jpg", "south/2/2_c1s1.jpg"], "{domain}/{identity}/{identity}_c{camera}*"),
    ],
)
def test_usual_layouts_are_recognized(paths: list[str], pattern: str) -> None:
    layout = guess_layout(paths)
    assert str(layout) == pattern
    assert all(layout.read(path) for path in paths)


CAMERAS = [f"cam{number}" for number in range(1, 7)]
BY_NAME = (
    r"cam1/person_0001\.png can be \{identity\}/\* \(6 people, cam1 for example\) or have its "
    r"person in the file's name, as in \{camera\}/person_\{identity\}\*; say which by --layout"
)


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
        # Cameras, or people? Two more people than cameras can be two more cameras than people.
        (grid("{}/{}/1.jpg", ["anna", "ben", "cem"], ["front", "back"]), "3 cameras and 2 people"),
        (grid("n/{}/{}/1.jpg", ["anna", "ben", "cem"], ["door", "yard"]), "folders of 3 and 2"),
        (grid("{}/{}.png", CAMERAS, ["person_0001", "person_0002"]), BY_NAME),
        (grid("{}/{}.png", CAMERAS, ["0001", "0002"]), r"\{camera\}/\{identity\}\.\*"),
        (grid("{}/{}.jpg", CAMERAS, ["0001_c1s1", "0002_c1s1"]), r"\*/\{identity\}_c\{camera\}\*"),
        (["door/2_c1s1.jpg", "yard/2_c2s1.jpg"], r"\*/\{identity\}_c\{camera\}\*"),
        (grid("{}/{}.png", ["site1", "site2"], ["a", "b"]), r"\{domain\}/\{identity\}\.\*"),
        (grid("{}/{}.png", ["2024-01-01", "2024-01-02"], ["a", "b"]), r"\*/\{identity\}\.\*"),
        (grid("{}/{}.png", ["north", "south"], ["ID 7", "ID 8"]), r"\{domain\}/ID \{identity\}\*"),
        (grid("{}/cam1/{}.png", ["north", "south"], ["x_pid7", "x_pid8"]), r"\*pid\{identity\}\*"),
        (
            grid("{}/cam1/{}.png", ["n", "s"], ["7_c1s1", "8_c1s1"]),
            r"can be \{identity\}/\{camera\}",
        ),
        (grid("{}/{}/1.png", CAMERAS, ["20240101", "20240102"]), r"\{camera\}/\*/\{identity\}\.\*"),
        (["a/1.jpg", "a/b/1.jpg"], r"a/1\.jpg and a/b/1\.jpg are not equally many folders deep"),
    ],
)
def test_what_is_not_clear_is_asked(paths: list[str], words: str) -> None:
    with pytest.raises(DatasetError, match=words) as caught:
        guess_layout(paths)
    assert "--layout" in str(caught.value)


RELEASE = {
    "bounding_box_train": ["0002_c1s1_000451_03", "0002_c2s1_000451_03", "0007_c1s1_000451_03"],
    "bounding_box_test": ["0003_c2s1_000451_03", "-1_c1s1_000451_03", "0000_c1s1_000451_03"],
    "query": ["0003_c1s1_000451_03"],
}
BESIDE = [
    "gt_bbox/0003_c1s1_000451_03.jpg",
    "pytorch/train/0002/0002_c1s1_000451_03.jpg",
    "sheet.png",
    "results/anna.png",
]
SUBSETS = {
    "train": ["train", "Train", "TRAIN", "training", "Bounding_Box_Train", "bounding-box-train"],
    "query": ["query", "Query", "QUERIES", "probe", "image_query"],
    "gallery": ["gallery", "Gallery", "bounding_box_test", "Bounding Box Test", "test", "Testing"],
}


def release(names: dict[str, str] = {}, above: str = "") -> list[str]:  # noqa: B006
    """Paths of Market-1501's images, in folders of other names."""
    return [
        f"{above}{names.get(folder, folder)}/{name}.jpg"
        for folder, files in RELEASE.items()
        for name in files
    ]


def check_release(labelled: Labelled) -> None:
    """Check that each image of a release is in its subset, and no other image is in any."""
    found = {(shot.subset, shot.identity, shot.camera) for shot in labelled.photographs}
    assert found == {
        ("train", "0002", "1"),
        ("train", "0002", "2"),
        ("train", "0007", "1"),
        ("query", "0003", "1"),
        ("gallery", "0003", "2"),
        ("gallery", "0000", "1"),
    }
    assert labelled.left_out["of identity -1, which is junk"] == 1


@pytest.mark.parametrize("layout", ["", "{subset}/{identity}_c{camera}*"])
@pytest.mark.parametrize("beside", [[], *([path] for path in BESIDE), BESIDE])
def test_a_release_is_recognized_whatever_lies_beside_it(beside: list[str], layout: str) -> None:
    labelled = label_photographs([*release(), *beside], layout)
    assert str(labelled.layout) == "{subset}/{identity}_c{camera}*"
    check_release(labelled)
    for path in beside:
        folder = path.split("/")[0] if "/" in path else "."
        assert labelled.left_out[f"in {folder}/, which is not called as a subset"] == 1


@pytest.mark.parametrize("train", SUBSETS["train"])
@pytest.mark.parametrize("query", SUBSETS["query"])
@pytest.mark.parametrize("gallery", SUBSETS["gallery"])
def test_subsets_are_recognized_by_any_usual_name(train: str, query: str, gallery: str) -> None:
    names = {"bounding_box_train": train, "query": query, "bounding_box_test": gallery}
    check_release(label_photographs([*release(names), *BESIDE]))


def test_releases_may_be_beside_each_other() -> None:
    layout, photographs, left_out, _ = label_photographs(
        [*release(above="market/"), *release(above="duke/"), "market/gt/1_c1.jpg", "own/1/2_c2.jpg"]
    )
    assert str(layout) == "{domain}/{subset}/{identity}_c{camera}*"
    assert {shot.domain for shot in photographs} == {"market", "duke"}
    assert len(photographs) == 2 * 6
    assert left_out["in market/gt/, which is not called as a subset"] == 1
    assert left_out["in own/1/, which is not called as a subset"] == 1


def test_many_folders_beside_subsets_are_named_in_one_line() -> None:
    beside = [f"session{number}/1.jpg" for number in range(9)]
    left_out = label_photographs([*release(), *beside]).left_out
    (line,) = (line for line in left_out if "session" in line)
    assert "session0/" in line and "4 more folders" in line
    assert left_out[line] == 9


@pytest.mark.parametrize(
    ("folders", "subsets"),
    [
        ({"train": "ab", "val": "cd"}, {"train": "train", "val": "test"}),
        ({"Training": "ab", "Validation": "cd"}, {"Training": "train", "Validation": "test"}),
        ({"train": "ab", "test": "cd"}, {"train": "train", "test": "test"}),
        # MSMT17's protocol trains on its validation images.
        ({"train": "ab", "val": "ab", "test": "cd"}, {"train": "train", "val": "train"}),
        (
            {"train": "ab", "valid": "b", "probe": "cd", "test": "cd"},
            {"valid": "train", "probe": "query", "test": "gallery"},
        ),
        ({"query": "ab", "gallery": "ab"}, {"query": "query", "gallery": "gallery"}),
    ],
)
def test_folders_of_people_in_subsets(folders: dict[str, str], subsets: dict[str, str]) -> None:
    paths = [
        f"{name}/{who}/{n}.jpg" for name, people in folders.items() for who in people for n in "12"
    ]
    labelled = label_photographs([*paths, "other/e/1.jpg"])
    assert str(labelled.layout) == "{subset}/{identity}/*"
    found = {shot.path.split("/")[0]: shot.subset for shot in labelled.photographs}
    assert found.items() >= subsets.items()
    assert "other" not in found


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        # Are the people of both the same? Then a test of them tells nothing.
        (
            grid("{}/{}/1.jpg", ["train", "val"], PEOPLE),
            r"4 people .* \(anna for example\); say by --layout '\*/\{identity\}/\*' that they are "
            r"the same.*--layout '\{subset\}/\{identity\}/\*' that they are others",
        ),
        (grid("{}/{}/1.jpg", ["train_v2", "test_v2"], PEOPLE), "train_v2 look like subsets; call"),
        (grid("x/{}/{}/1.jpg", ["my train", "my val"], PEOPLE), "my val look like subsets; call"),
        (grid("{}/{}/1.jpg", ["train", "bus", "tram"], PEOPLE), r"or \{subset\}/\{identity\}/\*"),
        (
            grid("{}/{}/1.jpg", ["train", "Train", "query"], PEOPLE),
            r"both called as train.*--exclude",
        ),
        (
            grid("{}/{}/1.jpg", ["train", "gallery", "test"], PEOPLE),
            r"to find people in.*--exclude",
        ),
        (["train/1.jpg", "test/2.jpg"], "none of the usual layouts"),
        (
            grid("n/{}/x/{}.jpg", ["train", "test"], ["1_c1", "2_c1"]),
            r"n/train/x/1_c1\.jpg can be \{domain\}/\{subset\}/.*two folders of a domain",
        ),
        (
            grid("{}/{}/1.jpg", ["train/cam1", "test/cam1"], ["2024-01-01"]),
            r"train/cam1/2024-01-01/1.jpg can be .* '\{subset\}/\{camera\}/\*/\{identity\}\.\*'",
        ),
    ],
)
def test_subsets_that_are_not_clear_are_asked(paths: list[str], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        label_photographs(paths)


def test_a_layout_without_a_folder_of_a_subset_lists_their_names() -> None:
    with pytest.raises(DatasetError, match=r"no folder is called as one; .*bounding_box_train"):
        label_photographs(["a/1/1.jpg", "b/1/1.jpg"], "{subset}/{identity}/*")
    with pytest.raises(DatasetError, match=r"is of old, which is not called as a subset"):
        label_photographs(["1/train_1.jpg", "2/old_1.jpg"], "{identity}/{subset}_*")


def test_distractors_are_left_out_of_training_and_queries() -> None:
    names = ["0000_c1s1_000451_03.jpg", "0001_c1s1_000451_03.jpg", "0002_c1s1_000451_03.jpg"]
    _, photographs, left_out, _ = label_photographs(
        grid("{}/{}", ["train", "query", "gallery"], names)
    )
    assert [shot.subset for shot in photographs if shot.identity == "0000"] == ["gallery"]
    assert left_out["of distractors (0000) in train"] == 1
    assert left_out["of distractors (0000) in query"] == 1
    assert sum(left_out.values()) == 2


def test_junk_and_excluded_paths_are_left_out() -> None:
    paths = ["1_c1.jpg", "2_c1.jpg", "-1_c1.jpg", "old/3.jpg"]
    layout, photographs, left_out, _ = label_photographs(paths, exclude=["old/*"])
    assert left_out == {"by --exclude": 1, "of identity -1, which is junk": 1}
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
