"""MSMT17, labelled CUHK03 and the datasets' own partitions, in the layouts of the releases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fastreid.data.datasets import DATASET_REGISTRY
from scipy.io import savemat

from metabin_plugin.data.datasets import (
    DG_CUHK03,
    DG_MSMT17,
    FURTHER_SOURCES,
    OWN_SPLITS,
    DG_CUHK03_Labeled,
    DG_CUHK03_Labeled_Split,
    DG_CUHK03_Split,
    DG_DukeMTMC_Split,
    DG_Market1501,
    DG_Market1501_Split,
    DG_MSMT17_Split,
)
from metabin_plugin.errors import DatasetError

MSMT17_LISTS = {
    "list_train.txt": [
        "0000/0000_000_01_0303morning_0008_0.jpg 0",
        "0001/0001_006_15_0113noon_0471_1_ex.jpg 1",
    ],
    "list_val.txt": ["0000/0000_031_06_0303noon_1035_0.jpg 0"],
    "list_query.txt": ["0000/0000_000_02_0303morning_0020_1.jpg 0"],
    "list_gallery.txt": [
        "0000/0000_001_14_0303afternoon_0007_2.jpg 0",
        "3059/3059_041_14_0302noon_0007_2.jpg 3059",
    ],
}


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def msmt17(root: Path, version: int = 1) -> None:
    folders = ("train", "test") if version == 1 else ("mask_train_v2", "mask_test_v2")
    release = root / f"MSMT17_V{version}"
    for name, lines in MSMT17_LISTS.items():
        folder = folders[name in ("list_query.txt", "list_gallery.txt")]
        touch(release / folder, *(line.split()[0] for line in lines))
        # The lists of the release end with a line break.
        (release / name).write_text("".join(f"{line}\n" for line in lines))


def market(root: Path) -> None:
    touch(
        root / "Market-1501-v15.09.15",
        "bounding_box_train/0002_c1s1_000451_03.jpg",
        "bounding_box_train/0007_c3s3_077419_03.jpg",
        "bounding_box_train/Thumbs.db",
        "bounding_box_test/-1_c1s1_000401_03.jpg",
        "bounding_box_test/0000_c6s3_096992_04.jpg",
        "bounding_box_test/1500_c2s3_075973_01.jpg",
        "bounding_box_test/Thumbs.db",
        "query/1500_c1s3_071623_00.jpg",
        "query/1501_c6s4_001902_00.jpg",
    )


def duke(root: Path) -> None:
    touch(
        root / "DukeMTMC-reID",
        "bounding_box_train/0001_c2_f0046182.jpg",
        "bounding_box_test/0005_c2_f0046985.jpg",
        "bounding_box_test/7139_c8_f0046985.jpg",
        "query/0005_c1_f0046985.jpg",
    )


CUHK03_NAMES = (
    "1_001_1_01.png",
    "1_001_2_06.png",
    "1_002_1_01.png",
    "1_002_1_02.png",
    "1_002_2_07.png",
    "1_002_2_10.png",
    "2_001_1_03.png",
    "2_001_2_09.png",
    "5_049_1_05.png",
)


def cuhk03(root: Path, boxes: str = "detected") -> None:
    touch(root / f"cuhk03/images_{boxes}", *CUHK03_NAMES)
    cells = np.empty((len(CUHK03_NAMES), 1), dtype=object)
    cells[:, 0] = CUHK03_NAMES
    protocol = {
        "filelist": cells,
        "labels": np.array([[1, 1, 2, 2, 2, 2, 3, 3, 4]], np.uint16).T,
        "camId": np.array([[1, 2, 1, 1, 2, 2, 1, 2, 1]], np.uint8).T,
        "train_idx": np.array([[1, 2, 7, 8, 9]], np.uint16).T,
        "query_idx": np.array([[3, 5]], np.uint16).T,
        "gallery_idx": np.array([[4, 6]], np.uint16).T,
    }
    savemat(root / f"cuhk03/cuhk03_new_protocol_config_{boxes}.mat", protocol)


TREES = {
    DG_MSMT17: msmt17,
    DG_MSMT17_Split: msmt17,
    DG_CUHK03_Labeled: lambda root: cuhk03(root, "labeled"),
    DG_Market1501_Split: market,
    DG_DukeMTMC_Split: duke,
    DG_CUHK03_Split: cuhk03,
    DG_CUHK03_Labeled_Split: lambda root: cuhk03(root, "labeled"),
}


def read(dataset, root: Path):
    TREES[dataset](root)
    return dataset(root=str(root))


def labels(items) -> list[tuple]:
    return [(identity, camera) for _, identity, camera in items]


def test_all_are_registered_and_tested():
    assert set(TREES) == {*FURTHER_SOURCES, *OWN_SPLITS}
    for dataset in TREES:
        assert DATASET_REGISTRY.get(dataset.__name__) is dataset


MSMT17_TRAIN = [
    ("msmt17_0", "msmt17_0"),
    ("msmt17_1", "msmt17_14"),
    ("msmt17_0", "msmt17_5"),
]


@pytest.mark.parametrize("version", [1, 2])
def test_msmt17_test_persons_are_others(tmp_path, version):
    msmt17(tmp_path, version)
    dataset = DG_MSMT17(root=str(tmp_path))
    assert dataset.edition == f"MSMT17_V{version}"
    assert labels(dataset.train) == [
        *MSMT17_TRAIN,
        ("msmt17_test_0", "msmt17_1"),
        ("msmt17_test_0", "msmt17_13"),
        ("msmt17_test_3059", "msmt17_13"),
    ]
    assert not dataset.query and not dataset.gallery
    assert all(Path(item[0]).is_file() for item in dataset.train)


@pytest.mark.parametrize("version", [1, 2])
def test_msmt17_own_split_trains_on_validation_images_too(tmp_path, version):
    msmt17(tmp_path, version)
    dataset = DG_MSMT17_Split(root=str(tmp_path))
    assert dataset.edition == f"MSMT17_V{version}"
    assert labels(dataset.train) == MSMT17_TRAIN
    assert labels(dataset.query) == [(0, 1)]
    assert labels(dataset.gallery) == [(0, 13), (3059, 13)]
    assert all(Path(i[0]).is_file() for i in dataset.train + dataset.query + dataset.gallery)


def test_msmt17_version_1_comes_first(tmp_path):
    msmt17(tmp_path, 2)
    msmt17(tmp_path, 1)
    assert DG_MSMT17(root=str(tmp_path)).edition == "MSMT17_V1"


@pytest.mark.parametrize("dataset", [DG_MSMT17, DG_MSMT17_Split])
@pytest.mark.parametrize(
    "line", ["0000/0000_000_01_0303morning_0008_0.jpg", "0000/000001.jpg 0", "a.jpg x", ""]
)
def test_msmt17_line_that_is_no_image(tmp_path, dataset, line):
    msmt17(tmp_path)
    path = tmp_path / "MSMT17_V1/list_gallery.txt"
    first, last = MSMT17_LISTS["list_gallery.txt"]
    path.write_text(f"{first}\n{line}\n{last}\n")
    with pytest.raises(DatasetError, match=r"list_gallery\.txt, line 2") as caught:
        dataset(root=str(tmp_path))
    assert repr(line) in str(caught.value)


def test_msmt17_missing_list_and_folder(tmp_path):
    msmt17(tmp_path, 2)
    (tmp_path / "MSMT17_V2/list_val.txt").unlink()
    with pytest.raises(DatasetError, match=r"list_val\.txt cannot be read"):
        DG_MSMT17_Split(root=str(tmp_path))
    (tmp_path / "MSMT17_V2/mask_train_v2").rename(tmp_path / "MSMT17_V2/train")
    with pytest.raises(DatasetError, match=r"mask_train_v2 is missing"):
        DG_MSMT17(root=str(tmp_path))


def test_market_distractors_are_only_gallery(tmp_path):
    dataset = read(DG_Market1501_Split, tmp_path)
    assert labels(dataset.train) == [
        ("market1501_2", "market1501_0"),
        ("market1501_7", "market1501_2"),
    ]
    assert labels(dataset.query) == [(1500, 0), (1501, 5)]
    assert labels(dataset.gallery) == [(0, 5), (1500, 1)]


@pytest.mark.parametrize("folder", ["bounding_box_train", "query"])
def test_market_distractors_in_other_folders_are_left_out(tmp_path, folder):
    market(tmp_path)
    touch(tmp_path / "Market-1501-v15.09.15" / folder, "0000_c6s3_096992_04.jpg")
    dataset = DG_Market1501_Split(root=str(tmp_path))
    assert labels(dataset.train) == [
        ("market1501_2", "market1501_0"),
        ("market1501_7", "market1501_2"),
    ]
    assert labels(dataset.query) == [(1500, 0), (1501, 5)]


def test_market_combined_is_without_distractors(tmp_path):
    market(tmp_path)
    combined = DG_Market1501_Split(root=str(tmp_path), combineall=True).train
    everything = DG_Market1501(root=str(tmp_path)).train
    assert {item[0] for item in combined} == {item[0] for item in everything}


def test_duke_distractor_persons_stay_in_the_gallery(tmp_path):
    dataset = read(DG_DukeMTMC_Split, tmp_path)
    assert labels(dataset.train) == [("dukemtmc_1", "dukemtmc_1")]
    assert labels(dataset.query) == [(5, 0)]
    assert labels(dataset.gallery) == [(5, 1), (7139, 7)]


@pytest.mark.parametrize("dataset", [DG_CUHK03_Split, DG_CUHK03_Labeled_Split])
def test_cuhk03_new_protocol(tmp_path, dataset):
    found = read(dataset, tmp_path)
    assert [Path(item[0]).name for item in found.train] == [
        CUHK03_NAMES[i] for i in (0, 1, 6, 7, 8)
    ]
    assert [Path(item[0]).name for item in found.query] == [CUHK03_NAMES[i] for i in (2, 4)]
    assert [Path(item[0]).name for item in found.gallery] == [CUHK03_NAMES[i] for i in (3, 5)]
    assert labels(found.train)[:3] == [
        ("cuhk03_P1_1", "cuhk03_P1_cam1"),
        ("cuhk03_P1_1", "cuhk03_P1_cam2"),
        ("cuhk03_P2_1", "cuhk03_P2_cam1"),
    ]
    (first, second), gallery = labels(found.query), labels(found.gallery)
    assert [first, second] == gallery
    assert first[0] == second[0] and {first[1], second[1]} == {0, 1}
    boxes = "labeled" if dataset is DG_CUHK03_Labeled_Split else "detected"
    assert all(f"images_{boxes}" in item[0] for item in found.train + found.query + found.gallery)


def test_cuhk03_labelled_images_are_of_the_same_people(tmp_path):
    cuhk03(tmp_path)
    labelled = read(DG_CUHK03_Labeled, tmp_path)
    assert labels(labelled.train) == labels(DG_CUHK03(root=str(tmp_path)).train)
    assert all("images_labeled" in item[0] for item in labelled.train)


def test_cuhk03_protocol_file_is_checked(tmp_path):
    cuhk03(tmp_path)
    path = tmp_path / "cuhk03/cuhk03_new_protocol_config_detected.mat"
    image = tmp_path / "cuhk03/images_detected/1_002_2_10.png"
    image.unlink()
    with pytest.raises(DatasetError, match=r"lists the image 1_002_2_10\.png"):
        DG_CUHK03_Split(root=str(tmp_path))
    image.touch()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DatasetError, match="is damaged or no MATLAB file"):
        DG_CUHK03_Split(root=str(tmp_path))
    savemat(path, {"filelist": "none"})
    with pytest.raises(DatasetError, match="has no variable 'train_idx'"):
        DG_CUHK03_Split(root=str(tmp_path))
    path.unlink()
    with pytest.raises(DatasetError, match=r"detected\.mat is missing.*Zhun Zhong"):
        DG_CUHK03_Split(root=str(tmp_path))
    path.mkdir()
    with pytest.raises(DatasetError, match="cannot be read"):
        DG_CUHK03_Split(root=str(tmp_path))


@pytest.mark.parametrize("dataset", OWN_SPLITS)
def test_nobody_is_trained_on_and_tested_with(dataset, tmp_path):
    found = read(dataset, tmp_path)
    train = {item[0] for item in found.train}
    assert train.isdisjoint(item[0] for item in found.query + found.gallery)
    assert {item[0] for item in found.query}.isdisjoint(item[0] for item in found.gallery)
    prefix = found.dataset_name
    assert all(f"{item[1]}_{item[2]}".count(f"{prefix}_") == 2 for item in found.train)
    assert all(type(item[1]) is int and type(item[2]) is int for item in found.query)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DG_Market1501_Split, "Market1501"),
        (DG_DukeMTMC_Split, "DukeMTMC"),
        (DG_MSMT17_Split, "MSMT17"),
    ],
)
def test_own_splits_are_those_of_fastreid(ours, theirs, tmp_path):
    mine = read(ours, tmp_path)
    other = DATASET_REGISTRY.get(theirs)(root=str(tmp_path))
    # Except that fastreid leaves out MSMT17's validation images.
    left_out = {item for item in mine.train if "0303noon_1035" in item[0]}
    assert set(mine.train) - left_out == set(other.train)
    # fastreid numbers MSMT17's test persons on from its training persons.
    shift = 2 if theirs == "MSMT17" else 0
    for subset in ("query", "gallery"):
        moved = {(path, who + shift, camera) for path, who, camera in getattr(mine, subset)}
        assert moved == set(getattr(other, subset))
