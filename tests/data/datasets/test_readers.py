"""The readers on small trees in the layouts of the real datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from metabin_plugin.data.datasets import (
    DG_CUHK02,
    DG_CUHK03,
    DG_CUHKSYSU,
    DG_GRID,
    DG_PRID,
    FURTHER_SOURCES,
    OWN_SPLITS,
    SOURCES,
    TARGETS,
    DG_DukeMTMC,
    DG_iLIDS,
    DG_Market1501,
    DG_VIPeR,
)
from metabin_plugin.errors import DatasetError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def cuhk02(root: Path) -> None:
    for pair in range(1, 6):
        for camera in (1, 2):
            folder = f"cuhk02/Dataset/P{pair}/cam{camera}"
            touch(root, f"{folder}/001_045.png", f"{folder}/001_100.png", f"{folder}/012_007.png")


def cuhk03(root: Path) -> None:
    names = ("1_001_1_01.png", "1_001_2_06.png", "2_001_1_01.png", "5_843_2_10.png")
    touch(root, *(f"cuhk03/images_detected/{name}" for name in names))


def market(root: Path) -> None:
    folder = "Market-1501-v15.09.15"
    touch(
        root,
        f"{folder}/bounding_box_train/0002_c1s1_000451_03.jpg",
        f"{folder}/bounding_box_train/0002_c3s1_000551_00.jpg",
        f"{folder}/bounding_box_train/Thumbs.db",
        f"{folder}/bounding_box_test/-1_c1s1_000401_03.jpg",
        f"{folder}/bounding_box_test/0000_c6s3_096992_04.jpg",
        f"{folder}/bounding_box_test/1500_c2s3_075973_01.jpg",
        f"{folder}/bounding_box_test/._1500_c2s3_075973_01.jpg",
        f"{folder}/query/1500_c1s3_071623_00.jpg",
    )


def duke(root: Path) -> None:
    folder = "DukeMTMC-reID"
    touch(
        root,
        f"{folder}/bounding_box_train/0001_c2_f0046182.jpg",
        f"{folder}/bounding_box_test/7139_c8_f0046985.jpg",
        f"{folder}/query/0005_c2_f0046985.jpg",
    )


def sysu(root: Path) -> None:
    names = ("p1_s3_1.jpg", "p1_s17480_2.jpg", "p11934_s10_1.jpg", "p-1_s10_4.jpg")
    touch(root, *(f"cuhk_sysu/cropped_images/{name}" for name in names))


def viper(root: Path) -> None:
    for number in (0, 3, 45, 872):
        touch(root, f"VIPeR/cam_a/{number:03d}_45.bmp", f"VIPeR/cam_b/{number:03d}_90.bmp")
    touch(root, "VIPeR/cam_a/Thumbs.db")


def prid(root: Path) -> None:
    folder = "prid_2011/single_shot"
    for number in (1, 2, 199, 200, 201, 385):
        touch(root, f"{folder}/cam_a/person_{number:04d}.png")
    for number in (1, 2, 199, 200, 201, 749):
        touch(root, f"{folder}/cam_b/person_{number:04d}.png")


def grid(root: Path) -> None:
    for number in (1, 2, 3, 4):
        touch(root, f"underground_reid/probe/{number:04d}_1_25004_107_32_106_221.jpeg")
        touch(root, f"underground_reid/gallery/{number:04d}_2_25023_116_134_128_330.jpeg")
    touch(
        root,
        "underground_reid/gallery/0000_5_25010_1_2_3_4.jpeg",
        "underground_reid/gallery/0000_5_25011_1_2_3_4.jpeg",
    )


def ilids(root: Path) -> None:
    names = ("0001001", "0001002", "0002001", "0002002", "0003001", "0003002", "0120001")
    touch(root, *(f"i-LIDS_Pedestrian/Persons/{name}.jpg" for name in names))


TREES = {
    DG_CUHK02: cuhk02,
    DG_CUHK03: cuhk03,
    DG_Market1501: market,
    DG_DukeMTMC: duke,
    DG_CUHKSYSU: sysu,
    DG_VIPeR: viper,
    DG_PRID: prid,
    DG_GRID: grid,
    DG_iLIDS: ilids,
}


def read(dataset, root: Path):
    TREES[dataset](root)
    return dataset(root=str(root))


def labels(items) -> set[tuple[str, str]]:
    return {(identity, camera) for _, identity, camera in items}


def test_cuhk02_identity_is_pair_and_number(tmp_path):
    dataset = read(DG_CUHK02, tmp_path)
    assert len(dataset.train) == 30
    assert dataset.get_num_pids(dataset.train) == 10
    assert dataset.get_num_cams(dataset.train) == 10
    assert ("cuhk02_P3_12", "cuhk02_P3_cam2") in labels(dataset.train)


def test_cuhk03_identity_is_pair_and_number(tmp_path):
    assert labels(read(DG_CUHK03, tmp_path).train) == {
        ("cuhk03_P1_1", "cuhk03_P1_cam1"),
        ("cuhk03_P1_1", "cuhk03_P1_cam2"),
        ("cuhk03_P2_1", "cuhk03_P2_cam1"),
        ("cuhk03_P5_843", "cuhk03_P5_cam2"),
    }


def test_market_joins_its_folders_and_leaves_junk_out(tmp_path):
    dataset = read(DG_Market1501, tmp_path)
    assert len(dataset.train) == 4
    assert labels(dataset.train) == {
        ("market1501_2", "market1501_0"),
        ("market1501_2", "market1501_2"),
        ("market1501_1500", "market1501_1"),
        ("market1501_1500", "market1501_0"),
    }


def test_duke_keeps_its_distractors(tmp_path):
    assert labels(read(DG_DukeMTMC, tmp_path).train) == {
        ("dukemtmc_1", "dukemtmc_1"),
        ("dukemtmc_7139", "dukemtmc_7"),
        ("dukemtmc_5", "dukemtmc_1"),
    }


def test_sysu_has_one_camera_and_no_unlabelled_people(tmp_path):
    dataset = read(DG_CUHKSYSU, tmp_path)
    assert len(dataset.train) == 3
    assert labels(dataset.train) == {
        ("cuhksysu_1", "cuhksysu_0"),
        ("cuhksysu_11934", "cuhksysu_0"),
    }


def test_viper_pairs(tmp_path):
    dataset = read(DG_VIPeR, tmp_path)
    assert len(dataset.train) == 8
    assert dataset.get_num_pids(dataset.train) == 4
    for query, gallery in dataset.splits:
        assert len(query) == len(gallery) == 2
        assert [q[1] for q in query] == [g[1] for g in gallery]
        assert all("cam_a" in path and camera == 0 for path, _, camera in query)
        assert all("cam_b" in path and camera == 1 for path, _, camera in gallery)


def test_prid_same_number_above_200_is_another_person(tmp_path):
    dataset = read(DG_PRID, tmp_path)
    assert dataset.get_num_pids(dataset.train) == 8
    assert {"prid_cam_a_201", "prid_cam_b_201"} <= {item[1] for item in dataset.train}
    for query, gallery in dataset.splits:
        assert len(query) == 2
        assert {q[1] for q in query} <= {1, 2, 199, 200}
        assert {g[1] for g in gallery} == {q[1] for q in query} | {201, 749}


def test_prid_shared_number_without_partner_is_no_query(tmp_path):
    prid(tmp_path)
    (tmp_path / "prid_2011/single_shot/cam_b/person_0002.png").unlink()
    dataset = DG_PRID(root=str(tmp_path))
    assert all(item[1] != 2 for query, _ in dataset.splits for item in query)


def test_grid_distractors_are_gallery_and_different_people(tmp_path):
    dataset = read(DG_GRID, tmp_path)
    assert dataset.get_num_pids(dataset.train) == 6
    assert dataset.get_num_cams(dataset.train) == 3
    for query, gallery in dataset.splits:
        assert len(query) == 2
        assert sorted(g[1] for g in gallery) == sorted([0, 0] + [q[1] for q in query])
        assert {c for _, _, c in query} == {0} and {c for _, _, c in gallery} == {1}


def test_ilids_two_images_of_half_of_the_people(tmp_path):
    dataset = read(DG_iLIDS, tmp_path)
    assert dataset.get_num_pids(dataset.train) == 4
    for query, gallery in dataset.splits:
        assert len(query) == len(gallery) == 2
        assert [q[1] for q in query] == [g[1] for g in gallery]
        assert {q[0] for q in query}.isdisjoint(g[0] for g in gallery)
        assert 120 not in {q[1] for q in query}
        assert {q[2] for q in query} == {0} and {g[2] for g in gallery} == {1}


@pytest.mark.parametrize("dataset", TARGETS)
def test_query_and_gallery_are_split_zero(dataset, tmp_path):
    target = read(dataset, tmp_path)
    assert len(target.splits) == 10
    assert (target.query, target.gallery) == target.splits[0]
    assert TREES[dataset] and dataset(root=str(tmp_path)).splits == target.splits


@pytest.mark.parametrize("dataset", SOURCES + TARGETS)
def test_combineall_changes_nothing(dataset, tmp_path):
    plain = read(dataset, tmp_path)
    combined = dataset(root=str(tmp_path), combineall=True)
    assert combined.train == plain.train


def test_sources_never_share_identities_or_cameras(tmp_path):
    seen: set[str] = set()
    for dataset in SOURCES:
        train = read(dataset, tmp_path).train
        names = {item[1] for item in train} | {item[2] for item in train}
        assert seen.isdisjoint(names)
        seen |= names


@pytest.mark.parametrize("dataset", SOURCES + FURTHER_SOURCES + OWN_SPLITS + TARGETS)
def test_missing_folder(dataset, tmp_path):
    with pytest.raises(DatasetError) as caught:
        dataset(root=str(tmp_path))
    text = str(caught.value)
    assert dataset.release.title in text
    assert str(tmp_path) in text
    assert dataset.release.layout in text
    assert dataset.release.home_page in text


@pytest.mark.parametrize("dataset", SOURCES + TARGETS)
def test_unparsable_file_is_named(dataset, tmp_path):
    TREES[dataset](tmp_path)
    suffix = {DG_GRID: ".jpeg", DG_VIPeR: ".bmp"}.get(dataset)
    image = next(p for p in sorted(tmp_path.rglob("*")) if p.suffix in (suffix, ".jpg", ".png"))
    stray = image.with_name(f"holiday{image.suffix}")
    stray.touch()
    with pytest.raises(DatasetError, match="holiday") as caught:
        dataset(root=str(tmp_path))
    assert str(stray) in str(caught.value)


def test_empty_folder(tmp_path):
    viper(tmp_path)
    for image in (tmp_path / "VIPeR/cam_b").iterdir():
        image.unlink()
    with pytest.raises(DatasetError, match=r"cam_b holds no \.bmp image"):
        DG_VIPeR(root=str(tmp_path))


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    viper(tmp_path)

    # The superuser may list every folder, so the refusal is played.
    def deny(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.listdir", deny)
    with pytest.raises(DatasetError, match=r"VIPeR/cam_a cannot be read \(Permission denied\)"):
        DG_VIPeR(root=str(tmp_path))


def test_a_file_and_a_dangling_link_in_place_of_a_folder_are_named(tmp_path):
    touch(tmp_path, "VIPeR/cam_a")
    with pytest.raises(DatasetError, match=r"VIPeR/cam_a cannot be read \(Not a directory\)"):
        DG_VIPeR(root=str(tmp_path))
    (tmp_path / "VIPeR/cam_a").unlink()
    (tmp_path / "VIPeR/cam_a").symlink_to("nowhere")
    with pytest.raises(DatasetError, match=r"VIPeR/cam_a is missing"):
        DG_VIPeR(root=str(tmp_path))


def test_all_wrong_names_are_counted(tmp_path):
    viper(tmp_path)
    touch(tmp_path, "VIPeR/cam_a/a.bmp", "VIPeR/cam_a/b.bmp", "VIPeR/cam_a/c.bmp")
    with pytest.raises(DatasetError, match=r"cam_a/a\.bmp does not .* \(nor do 2 others there\)"):
        DG_VIPeR(root=str(tmp_path))
