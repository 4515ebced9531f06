"""The targets on whole trees of both releases: counts, frozen splits, GRID's own partitions."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from metabin_plugin.data import splits
from metabin_plugin.data.datasets import DG_GRID, DG_PRID, TARGETS, DG_iLIDS, DG_VIPeR
from metabin_plugin.data.splits import NUM_SPLITS, draw_queries, one_camera_split
from metabin_plugin.errors import DatasetError
from tests.data.datasets import target_trees
from tests.data.datasets.target_trees import ILIDS_IMAGES, ORIGINAL, PETA, VIPER_PEOPLE

EDITIONS = {"original": ORIGINAL, "PETA": PETA}
# Images, people and cameras in all; queries and gallery images of a split.
SIZES = {
    "viper": (1264, 632, 2, 316, 316),
    "prid": (1134, 934, 2, 100, 649),
    "grid": (1275, 1025, 6, 125, 900),
    "ilids": (476, 119, 1, 60, 60),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Function that writes the tree of a target's edition once, and returns its datasets root."""
    roots: dict[tuple[str, str], Path] = {}

    def write(name: str, edition: str) -> Path:
        if (name, edition) not in roots:
            roots[name, edition] = tmp_path_factory.mktemp("release")
            EDITIONS[edition][name](roots[name, edition])
        return roots[name, edition]

    return write


@pytest.fixture(scope="module")
def release(tree: Callable[[str, str], Path]) -> Callable[[type, str], Any]:
    """Function that loads a target's edition."""

    def load(target: Any, edition: str) -> Any:
        return target(root=str(tree(target.dataset_name, edition)))

    return load


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_whole_release(release, target, edition):
    dataset = release(target, edition)
    images, people, cameras, queries, gallery_size = SIZES[target.dataset_name]
    assert dataset.edition == edition
    assert dataset.split_source == "frozen"
    assert len(dataset.train) == len({path for path, _, _ in dataset.train}) == images
    assert len({identity for _, identity, _ in dataset.train}) == people
    assert len({camera for _, _, camera in dataset.train}) == cameras
    assert len(dataset.splits) == NUM_SPLITS
    assert len({str(split) for split in dataset.splits}) == NUM_SPLITS
    assert (dataset.query, dataset.gallery) == dataset.splits[0]
    known = {path for path, _, _ in dataset.train}
    for query, gallery in dataset.splits:
        assert (len(query), len(gallery)) == (queries, gallery_size)
        assert {path for path, _, _ in query + gallery} <= known
        assert len({path for path, _, _ in query + gallery}) == queries + gallery_size
        matches = Counter(identity for _, identity, _ in gallery)
        assert all(matches[identity] == 1 for _, identity, _ in query)
        assert {camera for _, _, camera in query} == {0}
        assert {camera for _, _, camera in gallery} == {1}


def shown(target: type, split: Any) -> list[Any]:
    """A split in terms that both releases share."""
    query, gallery = split
    if target is DG_iLIDS:
        return [[Path(path).stem.replace("_", "") for path, _, _ in side] for side in split]
    return [[p for _, p, _ in query], [p for _, p, _ in gallery if p in {q[1] for q in query}]]


# Strangers to the gallery of a split: those whom it leaves out, and in PRID the 185 of camera a.
STRANGERS = {"viper": 316, "prid": 100 + 185, "grid": 125}


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_strangers_are_all_query_images_of_people_who_are_not_in_the_gallery(
    release, target, edition
):
    dataset = release(target, edition)
    assert len(dataset.strangers) == NUM_SPLITS
    for (query, gallery), strangers in zip(dataset.splits, dataset.strangers, strict=True):
        paths, identities, cameras = zip(*strangers, strict=True)
        assert len(set(paths)) == len(paths) and set(cameras) == {0}
        assert not {item[1] for item in gallery} & set(identities)
        assert not {item[0] for item in (*query, *gallery)} & set(paths)
        if target.dataset_name == "ilids":
            # All images of the 59 people who are not drawn.
            assert len(set(identities)) == 59
            shown = Counter(person for _, person, _ in dataset.train)
            assert all(
                shown[f"ilids_{person}"] == count for person, count in Counter(identities).items()
            )
        else:
            assert len(set(identities)) == len(strangers) == STRANGERS[target.dataset_name]


@pytest.mark.parametrize("target", TARGETS)
def test_both_releases_have_the_same_splits(release, target):
    original, peta = (release(target, edition).splits for edition in EDITIONS)
    for first, second in zip(original, peta, strict=True):
        assert shown(target, first) == shown(target, second)


def test_prid_persons_of_camera_b_are_the_same_in_peta(release):
    galleries = [release(DG_PRID, edition).gallery for edition in EDITIONS]
    people = [sorted(identity for _, identity, _ in gallery) for gallery in galleries]
    assert people[0] == people[1]
    assert people[0][100:] == list(range(201, 750))
    files = {Path(path).name for path, _, _ in galleries[1]}
    assert {"1201_b.png", "1385_b.png", "0386_b.png"} <= files


def test_viper_sides_are_the_cameras_in_peta(release):
    for query, gallery in release(DG_VIPeR, "PETA").splits:
        assert all(path.endswith("_1.bmp") for path, _, _ in query)
        assert all(path.endswith("_2.bmp") for path, _, _ in gallery)


def test_grid_probe_is_the_lower_camera_in_peta(release):
    probes = [Path(path).name for path, _, _ in release(DG_GRID, "original").query]
    assert [Path(path).name for path, _, _ in release(DG_GRID, "PETA").query] == probes


def test_ilids_person_120_is_left_out_of_peta(release):
    dataset = release(DG_iLIDS, "PETA")
    assert not [path for path, _, _ in dataset.train if "0120" in Path(path).name]


def rule(name: str) -> dict[str, Any]:
    """The record that the rules give for the people of the real dataset."""
    if name == "ilids":
        images = [(p, i) for p, n in enumerate(ILIDS_IMAGES, 1) for i in range(1, n + 1)]
        numbers = [1000 * person + image for person, image in images]
        drawn = [one_camera_split(name, k, [p for p, _ in images]) for k in range(NUM_SPLITS)]
        pairs = [[[numbers[q], numbers[g]] for q, g in zip(*split, strict=True)] for split in drawn]
        return {"population": numbers, "unpaired": 0, "splits": pairs}
    paired, unpaired = {
        "viper": (VIPER_PEOPLE, 0),
        "prid": (list(range(1, 201)), 549),
        "grid": (list(range(1, 251)), 775),
    }[name]
    queries = [draw_queries(name, k, paired) for k in range(NUM_SPLITS)]
    return {"population": paired, "unpaired": unpaired, "splits": queries}


def record_text(record: dict[str, Any]) -> str:
    """A record as a file, one split to a line."""
    head = json.dumps({k: record[k] for k in ("population", "unpaired")})[:-1]
    lines = ",\n".join(json.dumps(split) for split in record["splits"])
    return f'{head}, "splits": [\n{lines}\n]}}\n'


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_record_is_what_the_rule_gives(name):
    """If this fails the rule has changed; the record, and so the benchmark, must not."""
    path = resources.files("metabin_plugin.data") / "split_files" / f"{name}.json"
    assert path.read_bytes() == record_text(rule(name)).encode()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == splits.SHA256[name]


def test_every_record_has_a_checksum():
    folder = resources.files("metabin_plugin.data") / "split_files"
    files = {path.name for path in folder.iterdir() if path.name.endswith(".json")}
    assert files == {f"{name}.json" for name in splits.SHA256} == {f"{n}.json" for n in PETA}


@pytest.mark.parametrize("target", TARGETS)
def test_a_changed_rule_does_not_change_the_splits(release, target, monkeypatch):
    before = release(target, "original").splits

    def changed(*arguments: Any) -> None:
        raise AssertionError("the rule was asked")

    for module in ("base.draw_queries", "small_targets.one_camera_split"):
        monkeypatch.setattr(f"metabin_plugin.data.datasets.{module}", changed)
    assert release(target, "original").splits == before


def test_a_damaged_record_is_refused(release, monkeypatch):
    monkeypatch.setitem(splits.SHA256, "viper", "0" * 64)
    with pytest.raises(DatasetError, match=r"viper\.json are not those .* install it again"):
        release(DG_VIPeR, "original")


@pytest.mark.parametrize(
    ("target", "lost"),
    [
        (DG_VIPeR, "VIPeR/cam_b/872_135.bmp"),
        (DG_PRID, "prid_2011/single_shot/cam_b/person_0749.png"),
        (DG_GRID, "underground_reid/gallery/0000_1_25255_107_32_106_221.jpeg"),
        (DG_iLIDS, "i-LIDS_Pedestrian/Persons/0119004.jpg"),
    ],
)
def test_an_incomplete_copy_is_split_by_the_rule_and_said_to_be(tree, target, lost, caplog):
    root = tree(target.dataset_name, "original")
    (root / lost).unlink()
    try:
        with caplog.at_level(logging.INFO, "metabin_plugin"):
            dataset = target(root=str(root))
    finally:
        (root / lost).touch()
    assert dataset.split_source == "seeded"
    assert len(dataset.splits) == NUM_SPLITS
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "ten seeded splits of its own" in record.getMessage()


@pytest.mark.parametrize("edition", EDITIONS)
def test_the_log_says_what_was_read(release, caplog, edition):
    with caplog.at_level(logging.INFO, "metabin_plugin"):
        release(DG_GRID, edition)
    assert [record.getMessage() for record in caplog.records] == [
        f"GRID: the {edition} release with 1275 images, tested on the ten frozen splits of the "
        "benchmark"
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_the_original_release_comes_first(tree, target, tmp_path):
    for edition in EDITIONS:
        for folder in tree(target.dataset_name, edition).iterdir():
            (tmp_path / folder.name).symlink_to(folder)
    dataset = target(root=str(tmp_path))
    assert dataset.edition == "original"
    assert not [path for path, _, _ in dataset.train if "PETA" in path]


def test_a_wrong_name_in_peta_is_named(tmp_path):
    target_trees.touch(tmp_path / "PETA dataset/PRID/archive", "0001_a.png", "holiday.png")
    with pytest.raises(DatasetError, match=r"PRID 2011: the name of .*holiday\.png"):
        DG_PRID(root=str(tmp_path))


def partitions(people: int = 250, count: int = 10, training: int = 125) -> list[list[int]]:
    return [
        sorted((1 + np.random.default_rng(k).permutation(people)[:training]).tolist())
        for k in range(count)
    ]


def write_partitions(folder: Path, training: list[list[int]], field: str = "personIdx") -> Path:
    """Write the file in the form of the release: a cell array of structs, beside the features."""
    cells = np.empty((1, len(training)), dtype=object)
    for k, people in enumerate(training):
        images = 2 * np.array(people)
        cells[0, k] = {"probeImIdx": images, "galleryImIdx": images - 1, field: np.array(people)}
    path = folder / "features_and_partitions.mat"
    savemat(path, {"ftrset": np.zeros((4, 3)), "trainIdxAll": cells})
    return path


@pytest.fixture
def grid_folder(tree: Callable[[str, str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Function that returns the folder of GRID's edition in ``tmp_path``, to write files into."""

    def link(edition: str) -> Path:
        name = {"original": "underground_reid", "PETA": "PETA dataset/GRID"}[edition]
        (tmp_path / name).mkdir(parents=True)
        for entry in (tree("grid", edition) / name).iterdir():
            (tmp_path / name / entry.name).symlink_to(entry)
        return tmp_path / name

    return link


@pytest.mark.parametrize("edition", EDITIONS)
def test_grid_uses_its_own_partitions(grid_folder, tmp_path, caplog, edition):
    training = partitions()
    write_partitions(grid_folder(edition), training)
    with caplog.at_level(logging.INFO, "metabin_plugin"):
        dataset = DG_GRID(root=str(tmp_path))
    assert dataset.split_source == "own"
    assert "tested on its own ten partitions" in caplog.text
    for people, (query, gallery) in zip(training, dataset.splits, strict=True):
        tested = set(range(1, 251)) - set(people)
        assert {identity for _, identity, _ in query} == tested
        assert len(query) == 125 and len(gallery) == 900
        assert not {identity for _, identity, _ in gallery} & set(people)


@pytest.mark.parametrize(
    "training",
    [partitions(count=9), partitions(people=300), [list(range(1, 251))] * 10],
    ids=["nine", "others", "nobody left"],
)
def test_partitions_of_other_people_are_refused(grid_folder, tmp_path, training):
    path = write_partitions(grid_folder("original"), training)
    with pytest.raises(DatasetError, match=r"does not part the 250 pairs .* in ten ways") as caught:
        DG_GRID(root=str(tmp_path))
    assert str(path) in str(caught.value)


def test_unreadable_partitions_are_named(grid_folder, tmp_path):
    path = write_partitions(grid_folder("original"), partitions())
    whole = path.read_bytes()
    matlab_7_3 = b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\0\2IM"
    for content in (matlab_7_3, b"", b"text", whole[:400]):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"GRID: .*partitions\.mat is damaged"):
            DG_GRID(root=str(tmp_path))


def test_partitions_in_another_form_are_refused(grid_folder, tmp_path):
    path = write_partitions(grid_folder("original"), partitions(), field="other")
    variables: list[Any] = [1.0, "text", np.zeros((10, 3)), np.zeros((0, 0))]
    for variable in variables:
        with pytest.raises(DatasetError, match="does not part the 250 pairs"):
            DG_GRID(root=str(tmp_path))
        savemat(path, {"trainIdxAll": variable})
