"""Manifests and configs of photographs in folders."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from metabin_plugin.cli.main import execute
from metabin_plugin.data import ManifestDataset
from metabin_plugin.data.build import build_dataset
from metabin_plugin.data.photographs.photograph import Photograph
from metabin_plugin.data.photographs.subsets import assign_subsets, hold_out
from metabin_plugin.data.photographs.training import plan_training
from metabin_plugin.engine import check_config, read_config
from metabin_plugin.errors import DatasetError
from tests.full_disk import full_disk

CAMERAS = ("cam1", "cam2", "cam3")


def photograph(folder: Path, *paths: str) -> None:
    """Tiny images at paths below a folder."""
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8)).save(file, format="PNG")


def shop(folder: Path, people: int = 8, images: int = 2) -> Path:
    """Photographs of people by three cameras in ``camera/identity/*``."""
    names = [f"{c}/{p:02d}/{i}.jpg" for c in CAMERAS for p in range(people) for i in range(images)]
    photograph(folder / "photos", *names)
    return folder / "photos"


def rows(manifest: Path) -> list[dict[str, str]]:
    """Rows of a manifest."""
    with manifest.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def make(folder: Path, *arguments: str) -> Path:
    """Run the tool on photographs; the manifest."""
    output = folder.parent / "own.csv"
    execute(["manifest", str(folder), "--output", str(output), *arguments])
    return output


def test_a_shop_becomes_a_manifest_that_trains_and_tests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = make(shop(tmp_path), "--hold-out", "0.25")
    said = capsys.readouterr().out
    assert "was read as {camera}/{identity}/*" in said
    assert "| train    |       36 |            6 |         3 |" in said
    by_subset = Counter(row["subset"] for row in rows(manifest))
    # Two people, three cameras, two images each: one of them is the query.
    assert by_subset == {"train": 36, "query": 6, "gallery": 6}
    dataset = ManifestDataset(str(manifest))
    assert len({item[1] for item in dataset.train}) == 6
    assert len({item[2] for item in dataset.train}) == 3
    tested = {item[1] for item in dataset.query}
    assert tested == {item[1] for item in dataset.gallery} and len(tested) == 2


def test_the_next_command_can_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    for files in (["--output", "my shop.csv"], ["--config", "my shop.yml"]):
        execute(["manifest", "photos", "--output", "my shop.csv", *files])
        said = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
        assert shlex.split(said)[:2] == ["metabin", "check"]
        assert Path(shlex.split(said)[-1]).is_file()


def test_every_query_has_a_match_by_another_camera(tmp_path: Path) -> None:
    uneven = ["cam1/a/1.jpg", "cam2/a/1.jpg", "cam1/b/1.jpg", "cam1/b/2.jpg", "cam3/b/1.jpg"]
    photograph(tmp_path / "photos", *uneven, "cam1/c/1.jpg", "cam2/d/1.jpg", "cam2/d/2.jpg")
    dataset = ManifestDataset(str(make(tmp_path / "photos", "--hold-out", "0.5")))
    assert {Path(item[0]).parent.name for item in dataset.query} == {"a", "b"}
    for path, identity, camera in dataset.query:
        assert any(g[1] == identity and g[2] != camera for g in dataset.gallery), path


def test_people_without_cameras_are_compared_too(tmp_path: Path) -> None:
    photograph(tmp_path / "photos", *(f"{p}/{i}.jpg" for p in "abcd" for i in range(3)))
    manifest = make(tmp_path / "photos", "--hold-out", "0.5")
    dataset = ManifestDataset(str(manifest))
    assert len(dataset.query) == 2 and len(dataset.gallery) == 4
    assert {item[2] for item in dataset.query}.isdisjoint(item[2] for item in dataset.gallery)


def test_ten_splits_are_left_to_the_plugin(tmp_path: Path) -> None:
    dataset = ManifestDataset(str(make(shop(tmp_path), "--splits", "10", "--hold-out", "0.5")))
    assert len(dataset.splits) == 10
    assert len(dataset.train) == 24


def test_whole_domains_are_held_out(tmp_path: Path) -> None:
    for site in ("north", "south", "west"):
        shutil.copytree(shop(tmp_path / site), tmp_path / "photos" / site)
    # Nobody can find a person who was photographed once: a stranger in the gallery.
    photograph(tmp_path / "photos", "west/cam1/99/0.jpg")
    manifest = make(tmp_path / "photos", "--test-domains", "south", "west")
    domains = defaultdict(set)
    for row in rows(manifest):
        domains[row["subset"] == "train"].add(row["domain"])
    assert domains == {True: {"north"}, False: {"south", "west"}}
    # Person 01 of one site is not that of another.
    assert len({item[1] for item in ManifestDataset(str(manifest)).query}) == 16
    for wrong in (["east"], ["north", "south", "west"]):
        with pytest.raises(DatasetError, match="north, south, west; name some, and leave one"):
            make(tmp_path / "photos", "--test-domains", *wrong)
    # Cameras with people in them are not domains.
    with pytest.raises(DatasetError, match=r"no path was read as having a domain; say by --layout"):
        make(shop(tmp_path / "shop"), "--test-domains", "west")


RELEASE = {
    "bounding_box_train": "0002_c1s1_000451_03 0002_c2s1_000451_03 0007_c1s1_000451_03",
    "bounding_box_test": "0003_c2s1_000451_03 -1_c1s1_000451_03 0000_c1s1_000451_03",
    "query": "0003_c1s1_000451_03",
    "gt_bbox": "0003_c2s1_000451_00",
}


def test_a_release_is_read_as_it_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, names in RELEASE.items():
        photograph(tmp_path / "market", *(f"{folder}/{name}.jpg" for name in names.split()))
    (tmp_path / "market" / "readme.txt").write_text("x", encoding="utf-8")
    manifest = make(tmp_path / "market")
    said = capsys.readouterr().out
    assert "left out: 1 images in gt_bbox/, which is not called as a subset" in said
    assert "left out: 1 images of identity -1, which is junk" in said
    assert "distractors: 1 images of 0000, in the gallery only" in said
    assert "no images (1 .txt)" in said
    found = Counter((row["subset"], row["pid"]) for row in rows(manifest))
    people = {("train", "0002"): 2, ("train", "0007"): 1, ("query", "0003"): 1}
    assert found == {**people, ("gallery", "0003"): 1, ("gallery", "0000"): 1}
    dataset = ManifestDataset(str(manifest))
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (3, 1, 2)
    combined = ManifestDataset(str(manifest), combineall=True)
    assert not [item for item in combined.train if "/0000_" in item[0]]


NOBODY = [f"0000_c{camera}s1_00000{n}_00.jpg" for camera in (1, 2) for n in range(2)]
JUNK = [f"-1_c{camera}s1_000000_00.jpg" for camera in (1, 2)]


@pytest.mark.parametrize(
    "options", [["--hold-out", "0.5"], ["--hold-out", "0"], ["--splits", "10"]]
)
@pytest.mark.parametrize("site", ["", "north/"])
def test_nobody_is_trained_on_or_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], site: str, options: list[str]
) -> None:
    people = [f"{p:04d}_c{c}s1_00000{n}_00.jpg" for p in range(1, 9) for c in (1, 2) for n in "01"]
    photograph(tmp_path / "photos", *(site + name for name in (*people, *NOBODY, *JUNK)))
    manifest = make(tmp_path / "photos", *options)
    said = capsys.readouterr().out
    assert "left out: 2 images of identity -1, which is junk" in said
    if "0" in options:
        assert "left out: 4 images of distractors (0000) without a gallery to be in" in said
    else:
        assert "distractors: 4 images of 0000, in the gallery only" in said
    subsets = {row["subset"] for row in rows(manifest) if row["pid"] == "0000"}
    assert subsets == {"0.5": {"gallery"}, "0": set(), "10": {"test"}}[options[1]]
    dataset = ManifestDataset(str(manifest))
    assert not [item for item in dataset.train if "/0000_" in item[0] or "/-1_" in item[0]]
    for query, gallery in dataset.splits:
        assert not [item for item in query if "/0000_" in item[0]]
        nobody = [item for item in gallery if "/0000_" in item[0]]
        assert len(nobody) == (4 if gallery else 0)


def test_distractors_of_a_domain_that_is_not_tested_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = [f"000{p}_c{c}s1_000000_00.jpg" for p in (1, 2) for c in (1, 2)]
    sites = [f"{site}/{name}" for site in ("north", "south") for name in (*people, *NOBODY)]
    photograph(tmp_path / "photos", *sites)
    manifest = make(tmp_path / "photos", "--test-domains", "south")
    nobody = [row for row in rows(manifest) if row["pid"] == "0000"]
    assert {(row["domain"], row["subset"]) for row in nobody} == {("south", "gallery")}
    said = capsys.readouterr().out
    assert "distractors: 4 images" in said and "left out: 4 images of distractors" in said


def test_a_person_0000_of_ones_own_is_kept_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph(tmp_path / "photos", *(f"000{p}_c{c}_0.jpg" for p in range(4) for c in (1, 2)))
    manifest = make(tmp_path / "photos", "--hold-out", "0")
    assert {row["pid"] for row in rows(manifest)} == {"0000", "0001", "0002", "0003"}
    assert "0000 is a person here" in capsys.readouterr().out


@pytest.mark.parametrize(
    "names",
    [
        ["query/3/1.jpg", "query/4/1.jpg", "gallery/3/2.jpg", "gallery/4/2.jpg"],
        ["probe/3_c1.jpg", "probe/4_c1.jpg", "Test/3_c1_2.jpg", "Test/4_c1_2.jpg"],
        ["val/3/1.jpg", "val/3/2.jpg"],
    ],
)
def test_subsets_without_cameras_can_be_tested(tmp_path: Path, names: list[str]) -> None:
    name = "{}_c1.jpg" if "_c" in names[0] else "{}/1.jpg"
    photograph(tmp_path / "photos", *names, *(f"train/{name.format(p)}" for p in (1, 2)))
    dataset = ManifestDataset(str(make(tmp_path / "photos")))
    assert len(dataset.train) == 2
    for path, identity, camera in dataset.query:
        assert any(g[1] == identity and g[2] != camera for g in dataset.gallery), path
    assert dataset.query


@pytest.mark.parametrize(
    "names",
    [
        ["query/3_c1.jpg", "gallery/4_c2.jpg"],
        ["query/3_c1.jpg", "gallery/3_c1_1.jpg", "gallery/4_c2.jpg"],
        ["query/3_c1.jpg"],
        ["gallery/3_c1.jpg", "gallery/3_c2.jpg"],
        ["test/3_c1.jpg", "test/4_c2.jpg"],
        ["val/3_c1.jpg", "val/3_c1_1.jpg", "val/4_c2.jpg"],
    ],
)
def test_subsets_with_which_nobody_can_be_tested_are_refused(
    tmp_path: Path, names: list[str]
) -> None:
    photograph(tmp_path / "photos", *names, "train/1_c1.jpg", "train/2_c1.jpg")
    with pytest.raises(
        DatasetError, match=r"Nobody can be tested: .*--layout, or leave .*--exclude"
    ):
        make(tmp_path / "photos")
    assert not (tmp_path / "own.csv").exists()


@pytest.mark.parametrize("splits", ["1", "10"])
@pytest.mark.parametrize("test", [["--hold-out", "0.5"], ["--test-domains", "site1", "site2"]])
def test_sites_of_one_camera_are_tested(tmp_path: Path, splits: str, test: list[str]) -> None:
    names = [f"site{s}/cam1/{p}/{n}.jpg" for s in range(3) for p in range(4) for n in range(2)]
    photograph(tmp_path / "photos", *names)
    dataset = ManifestDataset(str(make(tmp_path / "photos", "--splits", splits, *test)))
    assert len(dataset.splits) == int(splits)
    for query, gallery in dataset.splits:
        assert query
        for path, identity, camera in query:
            assert any(g[1] == identity and g[2] != camera for g in gallery), path


@pytest.mark.parametrize("splits", ["1", "10"])
def test_sites_in_which_nobody_can_be_found_are_refused(tmp_path: Path, splits: str) -> None:
    # South has one photograph of each.
    names = [f"north/cam1/{p}/{n}.jpg" for p in range(4) for n in range(2)]
    photograph(tmp_path / "photos", *names, *(f"south/cam1/{p}/0.jpg" for p in range(4)))
    with pytest.raises(DatasetError, match="Nobody to test with was seen by two cameras"):
        make(tmp_path / "photos", "--splits", splits, "--test-domains", "south")
    assert not (tmp_path / "own.csv").exists()


def test_splits_of_subsets_that_are_there_are_refused(tmp_path: Path) -> None:
    names = [
        f"{subset}/{p}_c{c}.jpg"
        for subset in ("train", "query", "gallery")
        for p, c in ("11", "22")
    ]
    photograph(tmp_path / "photos", *names)
    with pytest.raises(DatasetError, match=r"has its own subsets; leave .*--splits out"):
        make(tmp_path / "photos", "--splits", "10")


def paths_hold(manifest: Path, photos: Path, count: int) -> None:
    """Check that a manifest names images below a folder, and by relative paths."""
    found = [manifest.parent / row["path"] for row in rows(manifest)]
    assert len(found) == count
    for path in found:
        assert path.resolve().is_relative_to(photos.resolve()), path
        assert path.is_file()
    assert not any(Path(row["path"]).is_absolute() for row in rows(manifest))


@pytest.mark.parametrize("kind", ["the manifest's", "above both", "the photographs'", "both", "up"])
def test_paths_are_right_through_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    photos = shop(tmp_path / "disk" / "deep" / "er")
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere" / "very" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "out").symlink_to(tmp_path / "elsewhere" / "very" / "deep")
    (tmp_path / "here" / "photos").symlink_to(photos)
    (tmp_path / "here" / "deep").symlink_to(photos.parents[1])
    folder, output = {
        "the manifest's": (os.path.relpath(photos), "out/own.csv"),
        "above both": ("deep/er/photos", "deep/made/own.csv"),
        "the photographs'": ("photos", "own.csv"),
        "both": ("photos", "out/own.csv"),
        "up": ("deep/../deep/er/photos", "out/../own.csv"),
    }[kind]
    arguments = [folder, "--output", output, "--config", output.replace("csv", "yml")]
    execute(["manifest", *arguments])
    paths_hold(Path(output), photos, 48)
    assert read_config(output.replace("csv", "yml"), []).DATASETS.NAMES


def test_a_camera_on_another_disk_is_read(tmp_path: Path) -> None:
    photos = shop(tmp_path)
    shutil.move(photos / "cam3", tmp_path / "disk")
    (photos / "cam3").symlink_to("../disk")
    (photos / "cam1" / "up").symlink_to("../..")
    manifest = make(photos)
    assert {row["camid"] for row in rows(manifest)} >= set(CAMERAS)
    assert all((tmp_path / row["path"]).is_file() for row in rows(manifest))


def test_links_that_are_not_followed_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = shop(tmp_path)
    (photos / "loop").symlink_to(".")
    make(photos)
    assert "left out: links to folders that are read without them (loop)" in capsys.readouterr().out


def test_photographs_on_another_drive_have_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, config = shop(tmp_path), tmp_path / "own.yml"

    def refuse(path: object, start: object = None) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("metabin_plugin.data.photographs.layout.os.path.relpath", refuse)
    manifest = make(photos, "--config", str(config))
    monkeypatch.undo()
    assert all(Path(row["path"]).is_absolute() for row in rows(manifest))
    assert len(ManifestDataset(str(manifest)).train) > 0
    assert read_config(str(config), []).DATASETS.NAMES


def test_folders_of_subsets_are_taken_as_they_are(tmp_path: Path) -> None:
    names = ["bounding_box_train/1_c1s1.jpg", "bounding_box_train/2_c1s1.jpg"]
    photograph(tmp_path / "photos", *names, "query/3_c1s1.jpg", "bounding_box_test/3_c2s1.jpg")
    dataset = ManifestDataset(str(make(tmp_path / "photos")))
    assert [len(s) for s in (dataset.train, dataset.query, dataset.gallery)] == [2, 1, 1]
    with pytest.raises(DatasetError, match="has its own subsets"):
        make(tmp_path / "photos", "--hold-out", "0.5")


def test_draws_depend_on_the_seed_alone() -> None:
    shots = [Photograph(f"{c}/{p}/{i}", str(p), c) for c in "ab" for p in range(30) for i in "xy"]
    drawn = hold_out(shots, 0.3, seed=1)
    assert len(drawn) == 9
    assert drawn == hold_out(shots[::-1], 0.3, seed=1) != hold_out(shots, 0.3, seed=2)
    shared = assign_subsets(shots, drawn, 1, seed=1)
    assert shared == assign_subsets(shots[::-1], drawn, 1, seed=1)
    assert shared != assign_subsets(shots, drawn, 1, seed=2)
    assert {shot.person for shot in shared if shot.subset != "train"} == drawn
    assert len(shared) == len(shots)


def test_two_people_of_each_domain_are_left_to_train_on() -> None:
    shots = [Photograph(f"{c}/{p}", str(p), c) for c in "ab" for p in range(4)]
    assert len(hold_out(shots, 0.9, seed=0)) == 2


@pytest.mark.parametrize("domains", [2, 20])
def test_photographs_are_gone_through_once_however_many_domains_there_are(domains: int) -> None:
    passes = []

    class Counted(list[Photograph]):
        def __iter__(self) -> Iterator[Photograph]:
            passes.append(1)
            return super().__iter__()

    shots = Counted(
        Photograph(f"{domain}/{person}{camera}.jpg", str(person), str(camera), str(domain))
        for domain in range(domains)
        for person in range(4)
        for camera in range(2)
    )
    assert len(hold_out(shots, 0.5, seed=0)) == 2 * domains
    assert len(passes) == 1


def test_nobody_to_hold_out_is_said(tmp_path: Path) -> None:
    photograph(tmp_path / "photos", "cam1/a/1.jpg", "cam2/b/1.jpg", "cam1/c/1.jpg")
    with pytest.raises(DatasetError, match=r"seen by two cameras .*--hold-out 0"):
        make(tmp_path / "photos")
    manifest = make(tmp_path / "photos", "--hold-out", "0")
    assert {row["subset"] for row in rows(manifest)} == {"train"}


@pytest.mark.parametrize(
    ("paths", "share", "words"),
    [
        (["a/1", "a/2", "b/1", "b/2"], 0.9, "at most 2 people, who are left to train on; add"),
        (["a/1", "a/2", *"bcd"], 0.1, "of the people of each domain is nobody; raise it"),
        (["a/1", "a/2", *"bcd"], 0.25, ""),
        (["a/1", "b/2", "c/1", "d/2"], 0.9, "nobody was seen by two cameras (or twice"),
    ],
)
def test_advice_for_holding_out_nobody_helps(paths: list[str], share: float, words: str) -> None:
    shots = [Photograph(path, path[0], path[2:]) for path in paths]
    if not words:
        assert hold_out(shots, share, seed=0) == {("", "a")}
        return
    with pytest.raises(DatasetError) as caught:
        hold_out(shots, share, seed=0)
    assert words in str(caught.value)
    # What is advised works.
    raised = "raise it" in str(caught.value)
    assert bool(hold_out(shots, 0.5 if raised else 0, seed=0)) == raised


def test_a_pattern_that_leaves_nothing_out_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = shop(tmp_path)
    make(photos, "--exclude", "cam3", "cam2/*", "*/99/*")
    said = capsys.readouterr().out
    assert "left out: 16 images by --exclude" in said
    assert "--exclude cam3 leaves nothing out; cam3/* is what is in that folder" in said
    assert "--exclude */99/* leaves nothing out; no path is like it" in said
    assert "--exclude cam2" not in said


def test_people_and_cameras_keep_their_names_but_for_spaces_around_them(tmp_path: Path) -> None:
    names = [" anna", "bob ", "carl\N{NO-BREAK SPACE}", "d e"]
    photograph(tmp_path / "photos", *[f"{c}/{n}/1.jpg" for c in ("cam1 ", "cam2") for n in names])
    layout = ("--layout", "{camera}/{identity}/*", "--hold-out", "0")
    made = rows(make(tmp_path / "photos", *layout))
    assert {row["pid"] for row in made} == {"anna", "bob", "carl", "d e"}
    assert {row["camid"] for row in made} == {"cam1", "cam2"}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("cam1/anna ", "'anna' and 'anna ' differ by spaces around them alone; rename one"),
        ("cam1 /carl", "'cam1' and 'cam1 ' differ by spaces around them alone; rename one"),
        ("cam1/ ", "has the identity ' ', which is nothing but spaces; rename it"),
    ],
)
def test_names_that_a_manifest_cannot_tell_apart_are_refused(
    tmp_path: Path, other: str, words: str
) -> None:
    photograph(tmp_path / "photos", "cam1/anna/1.jpg", "cam2/bob/1.jpg", f"{other}/1.jpg")
    with pytest.raises(DatasetError) as caught:
        make(tmp_path / "photos", "--layout", "{camera}/{identity}/*", "--hold-out", "0")
    assert words in str(caught.value)


def test_names_of_two_domains_may_differ_by_spaces(tmp_path: Path) -> None:
    paths = [
        f"{d}/{n}/{i}.jpg"
        for d, n in (("x", "a"), ("x", "b"), ("y", "a "), ("y", "b"))
        for i in "12"
    ]
    photograph(tmp_path / "photos", *paths)
    made = make(tmp_path / "photos", "--layout", "{domain}/{identity}/*", "--hold-out", "0")
    assert len({(row["domain"], row["pid"]) for row in rows(made)}) == 4


def test_awkward_names_are_read_back(tmp_path: Path) -> None:
    names = ["cam1/Jörg, der 1./größe (2).JPG", 'cam1/b "quoted"/ 1.jpg', "cam2/c/new\nline.jpg"]
    photograph(tmp_path / "photos", *names)
    manifest = make(tmp_path / "photos", "--hold-out", "0")
    found = {Path(item[0]).relative_to(tmp_path / "photos").as_posix() for item in _train(manifest)}
    assert found == set(names)


def test_a_manifest_among_its_photographs_reads_names_with_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph(tmp_path, " a/1.jpg", "b/1.jpg")
    monkeypatch.chdir(tmp_path)
    execute(["manifest", ".", "--output", "own.csv", "--hold-out", "0"])
    assert len(_train(tmp_path / "own.csv")) == 2


def _train(manifest: Path) -> list[tuple[str, str, str]]:
    return ManifestDataset(str(manifest)).train


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = shop(tmp_path)
    for name in ("Thumbs.db", ".DS_Store", "._1.jpg", "IMG_1.HEIC", "notes.txt"):
        (photos / "cam1" / "00" / name).write_bytes(b"x")
    manifest = make(photos, "--exclude", "cam3/*")
    assert len(rows(manifest)) == 32
    said = capsys.readouterr().out
    assert "left out: 16 images by --exclude" in said
    assert "1 photographs that Pillow does not read; convert them to JPEG (cam1/00/IMG_1" in said
    assert "no images (1 .db, 1 .txt)" in said


@pytest.mark.parametrize(
    ("option", "name", "text"),
    [
        # The recipe that was meant to be trained, and a table of something else.
        ("--config", "MetaBIN-own.yml", "# My settings.\nOUTPUT_DIR: logs/mine\n"),
        ("--config", "own.yml", "OUTPUT_DIR: logs/mine\n"),
        ("--output", "people.csv", "name,pid\nAda,3\n"),
    ],
)
def test_files_of_other_kinds_are_not_written_over(
    tmp_path: Path, option: str, name: str, text: str
) -> None:
    photos = shop(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=f"{name} is there and was not written by metabin"):
        make(photos, option, str(tmp_path / name))
    assert (tmp_path / name).read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "photos"])


def test_its_own_files_are_written_anew(tmp_path: Path) -> None:
    photos, config = shop(tmp_path), tmp_path / "own.yml"
    config.touch()
    for share, people in (("0.25", 6), ("0.5", 4)):
        manifest = make(photos, "--hold-out", share, "--config", str(config))
        trained = {row["pid"] for row in rows(manifest) if row["subset"] == "train"}
        assert len(trained) == people


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hold-out", "1"], "--hold-out is 1.0; give a share"),
        (["--output", "own.txt"], "needs another suffix; make it .csv"),
        (["--config", "own.csv"], "needs another suffix; make it .yml"),
        (["--layout", "{camera}/*"], "has no {identity}"),
        (["--layout", "photos/{camera}/{identity}/*"], "00/0.jpg for example; give another --lay"),
    ],
)
def test_options_that_cannot_work_are_refused(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    with pytest.raises(DatasetError, match=words.replace("{", r"\{")):
        make(shop(tmp_path), *arguments)
    assert not (tmp_path / "own.csv").exists()


def test_folders_without_photographs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"absent cannot be read \(No such file"):
        make(tmp_path / "absent")
    (tmp_path / "photos").mkdir()
    with pytest.raises(DatasetError, match="no image that Pillow reads; name another"):
        make(tmp_path / "photos")
    (tmp_path / "photos" / "IMG_1.heic").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"convert IMG_1\.heic and its like to JPEG"):
        make(tmp_path / "photos")


def test_a_manifest_that_cannot_be_written_is_as_it_was(tmp_path: Path) -> None:
    photos = shop(tmp_path)
    (tmp_path / "own.csv").write_text("path,pid,camid\n")
    disk = full_disk(tmp_path / "own.csv")
    with disk, pytest.raises(DatasetError, match=r"own\.csv cannot be written"):
        make(photos)
    assert (tmp_path / "own.csv").read_text() == "path,pid,camid\n"


@pytest.mark.parametrize("edit", ["  # ours", "\nSOLVER:\n  BASE_LR: 0.02\n", None])
def test_a_config_that_was_edited_is_not_replaced(tmp_path: Path, edit: str | None) -> None:
    photos, config = shop(tmp_path), tmp_path / "own.yml"
    manifest = make(photos, "--config", str(config))
    made = config.read_bytes()
    make(photos, "--config", str(config))
    assert config.read_bytes() == made
    if edit is None:
        # All of it is the user's.
        config.write_text("_BASE_: mine.yml\n")
    else:
        config.write_bytes(made + edit.encode())
    edited, before = config.read_bytes(), manifest.read_bytes()
    photograph(photos, "cam1/99/0.jpg", "cam2/99/0.jpg")
    with pytest.raises(DatasetError, match=r"own\.yml is there "):
        make(photos, "--config", str(config))
    assert (config.read_bytes(), manifest.read_bytes()) == (edited, before)
    make(photos)
    assert config.read_bytes() == edited and len(rows(manifest)) == 50


@pytest.mark.parametrize(
    ("layout", "kind", "meta_train", "batch"),
    [
        # 12 identities of all domains together, but at least two, and no more than there are.
        ([("", c, p) for c in "ab" for p in "123456"], "camera", 1, 48),
        ([("", c, p) for c in "abc" for p in "123456"], "camera", 2, 48),
        ([("", c, p) for c in "abc" for p in "123"], "camera", 2, 36),
        ([("", c, p) for c in "abcdefgh" for p in "123"], "camera", 4, 64),
        ([(d, c, p) for d in "xyz" for c in "ab" for p in "1234"], "dataset", 2, 48),
        ([(d, "", p) for d in "vwxyz" for p in "1234"], "dataset", 3, 40),
        ([("", "a", p) for p in "123456"], "", 0, 24),
        # One camera saw nobody but one person.
        ([("", "a", p) for p in "123456"] + [("", "b", "1")], "", 0, 24),
    ],
)
def test_the_config_fits_the_photographs(
    tmp_path: Path, layout: list[tuple[str, str, str]], kind: str, meta_train: int, batch: int
) -> None:
    names = [Path(d, c and f"cam{c}", p, f"{i}.jpg") for d, c, p in layout for i in range(4)]
    photograph(tmp_path / "photos", *map(str, names))
    config = tmp_path / "sub" / "own.yml"
    given = ["--layout", "{domain}/{identity}/*"] if kind == "dataset" and not layout[0][1] else []
    manifest = make(tmp_path / "photos", "--hold-out", "0", "--config", str(config), *given)
    cfg = read_config(str(config), [])
    check_config(cfg)
    data, node = cfg.DATASETS, cfg.METABIN
    assert list(data.NAMES) == [str(manifest)] and not data.TESTS
    assert [batch, "logs/own"] == [cfg.SOLVER.IMS_PER_BATCH, cfg.OUTPUT_DIR]
    if kind:
        assert [kind, meta_train] == [node.DOMAIN, node.NUM_META_TRAIN]
        assert cfg.MODEL.META_ARCHITECTURE == "MetaBIN"
    else:
        assert (cfg.MODEL.META_ARCHITECTURE, cfg.METABIN.HOOKS) == ("Baseline", ())


def test_a_domain_of_one_person_cannot_be_trained_on() -> None:
    shots = [Photograph(f"{d}{p}", str(p), domain=d) for d, p in ("x1", "x2", "y1")]
    # There is no config yet whose DATASETS could be changed.
    sentence = "Domain 'y' has 1 identity .* add images of other people to it, or leave its images"
    with pytest.raises(DatasetError, match=sentence):
        plan_training(shots)


@pytest.mark.parametrize("layout", ["train/{}/{}.jpg", "x/{}/{}.jpg"])
def test_one_person_to_train_on_is_refused_before_a_config_is_written(
    tmp_path: Path, layout: str
) -> None:
    # The others are to be tested with: by their folder, or by --test-domains.
    test = "test" if "train" in layout else "y"
    tested = [f"{test}/cam{camera}/{who}.jpg" for who in ("b_1", "c_1") for camera in (1, 2)]
    trained = [layout.format(f"cam{camera}", f"a_{shot}") for camera in (1, 2) for shot in (1, 2)]
    photograph(tmp_path / "photos", *trained, *tested)
    field = "subset" if "train" in layout else "domain"
    arguments = ["--layout", f"{{{field}}}/{{camera}}/{{identity}}_*.jpg"]
    arguments += ["--config", str(tmp_path / "own.yml")]
    arguments += [] if "train" in layout else ["--test-domains", "y"]
    with pytest.raises(DatasetError, match=r"one person, and two are needed.*leave --config out"):
        make(tmp_path / "photos", *arguments)
    assert not list(tmp_path.glob("own.*"))


def test_a_folder_in_the_place_of_a_data_set_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"is a folder; make a manifest .*metabin manifest"):
        build_dataset(str(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are Unicode")
def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    photos = shop(tmp_path)
    (photos / "cam1" / "01").rename(photos / "cam1" / os.fsdecode(b"J\xf6rg"))
    with pytest.raises(DatasetError, match=r"name 'cam1/J\\udcf6rg/0\.jpg' is not UTF-8.*rename"):
        make(photos)


ROOT = Path(__file__).parents[2]
# Makes a manifest with names that ASCII does not have, and reads what it names.
SCRIPT = """
import locale, sys
assert locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8")
from metabin_plugin.cli.main import execute
execute(["manifest", *sys.argv[1:]])
import metabin_plugin
metabin_plugin.register()
import yaml
from metabin_plugin.data.build import build_dataset
from metabin_plugin.data.images import read_rgb
keys = yaml.safe_load(open("größe/日.yml".encode(), encoding="utf-8"))
(name,) = keys["DATASETS"]["NAMES"]
dataset = build_dataset(name)
assert len(dataset.train) == 36 and len(dataset.query) == 6
assert {read_rgb(item[0]).size for item in dataset.train} == {(4, 8)}
"""
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
def test_names_are_utf_8_whatever_the_locale_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "größe" / "日本 photos"
    photos = shop(tmp_path)
    for person in photos.glob("*/*"):
        person.rename(person.with_name(f"Jörg {person.name}"))
    folder.parent.mkdir()
    photos.rename(folder)
    options = ["größe/日本 photos", "--output", "größe/日.csv", "--config", "größe/日.yml"]
    made = [tmp_path / "größe" / name for name in ("日.csv", "日.yml")]
    monkeypatch.chdir(tmp_path)
    execute(["manifest", *options])
    people = {row["pid"] for row in rows(made[0])}
    assert people == {f"Jörg {person:02d}" for person in range(8)}
    here = [file.read_bytes() for file in made]
    for file in made:
        file.unlink()
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, **C_LOCALE, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "script.py", *options], env=environment, check=True)
    # What is made in one locale can be read in the other.
    assert [file.read_bytes() for file in made] == here


DROPPING = """
import sys
from metabin_plugin.cli.main import main
sys.argv = ["metabin", "check", "--drop-unreadable", "--workers", "0", "--datasets", "größe.csv"]
sys.exit(main())
"""


@pytest.mark.slow
def test_images_are_taken_out_whatever_the_locale_is(tmp_path: Path) -> None:
    photograph(tmp_path, "größe 1.jpg", "größe 2.jpg", "größe 3.jpg")
    (tmp_path / "größe 2.jpg").write_bytes(b"no image")
    lines = ["path,pid,camid", *(f"größe {number}.jpg,{number},0" for number in (1, 2, 3))]
    (tmp_path / "größe.csv").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "script.py").write_text(DROPPING, encoding="utf-8")
    environment = {**os.environ, **C_LOCALE, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "script.py"], env=environment, cwd=tmp_path, check=True)
    assert [row["pid"] for row in rows(tmp_path / "größe.csv")] == ["1", "3"]


@pytest.mark.slow
def test_all_is_written_when_nobody_reads_what_is_said(tmp_path: Path) -> None:
    manifest, config = tmp_path / "own.csv", tmp_path / "own.yml"
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-u", "tools/make_manifest.py", str(shop(tmp_path))]
    command += ["--output", str(manifest), "--config", str(config)]
    ended = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert len(rows(manifest)) == 48
    assert list(read_config(str(config), []).DATASETS.NAMES) == [str(manifest)]
