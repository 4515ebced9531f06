"""Manifests: what their rows become, and every way in which one can be wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from metabin_plugin.data import ManifestDataset, build_dataset
from metabin_plugin.errors import DatasetError

FULL = """path,pid,camid,domain,subset,photographer
img/0.jpg,anna,left,day,train,x
img/1.jpg,anna,right,day,train,x
img/2.jpg,anna,left,night,train,x
img/3.jpg,carl,north,day,query,x
img/4.jpg,bert,south,day,query,x
img/5.jpg,bert,north,day,gallery,x
img/3.jpg,carl,north,day,gallery,x
img/0.jpg,0007,south,day,gallery,x
"""


@pytest.fixture
def write_manifest(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., str]:
    """Function that writes a manifest beside six images and returns its path."""
    for number in range(6):
        write_image(tmp_path / f"img/{number}.jpg", number)

    def write(text: str | bytes, name: str = "own.csv") -> str:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


WriteManifest = Callable[..., str]


def test_training_labels_are_unique_to_manifest_and_domain(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    first = ManifestDataset(write_manifest(FULL))
    second = ManifestDataset(write_manifest(FULL, "other.csv"))
    paths, identities, cameras = zip(*first.train, strict=True)
    assert list(paths) == [str(tmp_path / f"img/{number}.jpg") for number in range(3)]
    assert identities[0] == identities[1] != identities[2]
    assert len(set(cameras)) == 3
    assert first.train_domains == ["day", "day", "night"]
    assert not set(identities) & {item[1] for item in second.train}
    assert not set(cameras) & {item[2] for item in second.train}


def test_two_people_whose_labels_would_be_one_are_refused(write_manifest: WriteManifest) -> None:
    rows = "path,pid,camid,domain,subset\nimg/0.jpg,b:1,x,a,train\nimg/1.jpg,{},x,{},train\n"
    with pytest.raises(DatasetError, match=r"'b:1' of domain 'a' and '1' of 'a:b', .*; write"):
        ManifestDataset(write_manifest(rows.format("1", "a:b")))
    dataset = ManifestDataset(write_manifest(rows.format("1", "a:c")))
    assert len({person for _, person, _ in dataset.train}) == 2


def test_two_cameras_whose_labels_would_be_one_are_refused(write_manifest: WriteManifest) -> None:
    """With METABIN.DOMAIN camera they would be one domain."""
    rows = "path,pid,camid,domain,subset\nimg/0.jpg,1,b:x,a,train\nimg/1.jpg,2,x,{},train\n"
    with pytest.raises(DatasetError, match=r"camera 'b:x' of domain 'a' and 'x' of 'a:b', .*; wr"):
        ManifestDataset(write_manifest(rows.format("a:b")))
    dataset = ManifestDataset(write_manifest(rows.format("a:c")))
    assert len({camera for _, _, camera in dataset.train}) == 2


def test_query_and_gallery_are_numbered_alike(write_manifest: WriteManifest) -> None:
    dataset = ManifestDataset(write_manifest(FULL))
    carl, bert = (item[1] for item in dataset.query)
    north, south = (item[2] for item in dataset.query)
    assert len({carl, bert}) == len({north, south}) == 2
    assert [item[1] for item in dataset.gallery[:2]] == [bert, carl]
    assert [item[2] for item in dataset.gallery] == [north, north, south]
    assert dataset.gallery[2][1] not in (carl, bert)
    for item in dataset.query + dataset.gallery:
        assert type(item[1]) is type(item[2]) is int


def test_only_path_identity_and_camera_are_needed(write_manifest: WriteManifest) -> None:
    # With the byte order mark and the line ends that spreadsheets write.
    text = "camid,path,pid,subset\r\n1,img/0.jpg,å, \r\n2, img/1.jpg ,å\r\n"
    dataset = ManifestDataset(write_manifest(text.encode("utf-8-sig"), "market.v2.csv"))
    assert len({item[1] for item in dataset.train}) == 1
    assert len({item[2] for item in dataset.train}) == 2
    assert dataset.train_domains == ["market.v2"] * 2
    assert dataset.query == dataset.gallery == []


def test_equal_test_identities_of_two_domains_are_two_people(
    write_manifest: WriteManifest,
) -> None:
    text = (
        "path,pid,camid,subset,domain\nimg/0.jpg,1,1,query,day\nimg/1.jpg,1,2,gallery,day\n"
        "img/2.jpg,1,1,query,night\nimg/3.jpg,1,2,gallery,night\n"
    )
    dataset = ManifestDataset(write_manifest(text))
    (_, day, _), (_, night, _) = dataset.query
    assert day != night
    assert [item[1] for item in dataset.gallery] == [day, night]


def test_query_and_gallery_are_the_only_split(write_manifest: WriteManifest) -> None:
    dataset = ManifestDataset(write_manifest(FULL))
    assert dataset.splits == [(dataset.query, dataset.gallery)] and dataset.strangers == []
    assert ManifestDataset(write_manifest("path,pid,camid\nimg/0.jpg,1,1\n")).splits == [([], [])]


def test_ten_splits_are_drawn_from_test_rows(write_manifest: WriteManifest) -> None:
    # Anna and Bert can be compared; Carl, whom one camera saw, is in every gallery.
    people = [("anna", "l"), ("anna", "r"), ("bert", "r"), ("bert", "l"), ("carl", "l")]
    rows = [f"img/{n}.jpg,{who},{camera},test\n" for n, (who, camera) in enumerate(people)]
    text = HEADER + "img/5.jpg,dora,l,train\n" + "".join(rows)
    dataset = ManifestDataset(write_manifest(text))
    assert len(dataset.train) == 1
    assert len(dataset.splits) == 10
    assert (dataset.query, dataset.gallery) == dataset.splits[0]
    for query, gallery in dataset.splits:
        names = [Path(path).stem for path, _, _ in query + gallery]
        assert names[2:] == ["4"]
        assert {*names[:2]} in ({"0", "1"}, {"2", "3"})
        assert query[0][1] == gallery[0][1] != gallery[1][1]
        assert [camera for _, _, camera in query + gallery] == [0, 1, 1]
    # Of the two who can be compared, the one who is not drawn.
    for (query, gallery), strangers in zip(dataset.splits, dataset.strangers, strict=True):
        assert {Path(path).stem for path, _, _ in (*query, *gallery, *strangers)} == set("01234")
        assert len({person for _, person, _ in strangers}) == 1 and len(strangers) == 2
    assert {query[0][0] for query, _ in dataset.splits} > {dataset.query[0][0]}
    assert ManifestDataset(write_manifest(text)).splits == dataset.splits
    combined = ManifestDataset(write_manifest(text), combineall=True)
    assert len(combined.train) == 6


def test_test_rows_of_one_camera_are_compared_with_each_other(
    write_manifest: WriteManifest,
) -> None:
    rows = [f"img/{n}.jpg,{n // 2},0,test\n" for n in range(5)]
    for query, gallery in ManifestDataset(write_manifest(HEADER + "".join(rows))).splits:
        assert (len(query), len(gallery)) == (1, 2)
        assert query[0][1] == gallery[0][1]
        # Else evaluation would discard the match.
        assert query[0][2] != gallery[0][2]


def test_sites_of_one_camera_are_tested_beside_others(write_manifest: WriteManifest) -> None:
    # North and south have one camera each; in the east only who was seen by both can be found.
    sites = ["n,l", "n,l", "s,l", "s,l", "e,l", "e,r"]
    rows = [f"img/{n}.jpg,{who},{sites[n]},test\n" for n, who in enumerate("112233")]
    text = "path,pid,domain,camid,subset\n"
    splits = ManifestDataset(write_manifest(text + "".join(rows))).splits
    drawn = {int(Path(path).stem) // 2 for query, _ in splits for path, _, _ in query}
    assert drawn == {0, 1, 2}
    alone = ManifestDataset(write_manifest(text + "".join(rows[:4]))).splits
    assert all(len(query) == len(gallery) == 1 for query, gallery in alone)


NAMES = {
    "junk": "-1_c1s1_000401_03.jpg",
    "distractor": "0000_c6s3_096992_04.jpg",
    "person": "0002_c1s1_000451_03.jpg",
}


@pytest.mark.parametrize(
    ("pid", "name", "is_kept"),
    [
        # For train, query and gallery.
        ("-1", NAMES["junk"], (False, False, False)),
        ("-1", "anna.jpg", (False, False, False)),
        ("-1.0", "anna.jpg", (False, False, False)),
        ("0000", NAMES["distractor"], (False, False, True)),
        ("0", NAMES["distractor"], (False, False, True)),
        # Somebody's own people, numbered from 0.
        ("0", "anna.jpg", (True, True, True)),
        ("0000", "0000_c1.jpg", (True, True, True)),
        ("0", NAMES["person"], (True, True, True)),
        ("7", NAMES["distractor"], (True, True, True)),
        ("1", NAMES["person"], (True, True, True)),
        ("-10", "anna.jpg", (True, True, True)),
        ("anna-1", "anna.jpg", (True, True, True)),
    ],
)
def test_junk_is_used_nowhere_and_distractors_in_the_gallery_only(
    tmp_path: Path,
    write_image: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    pid: str,
    name: str,
    is_kept: tuple[bool, bool, bool],
) -> None:
    write_image(tmp_path / "0" / name)
    write_image(tmp_path / "others" / "1_c1.jpg")
    manifest = tmp_path / "own.csv"
    for subset, kept in zip(("train", "query", "gallery"), is_kept, strict=True):
        rows = [f"0/{name},{pid},1,{subset}", f"others/1_c1.jpg,bert,1,{subset}"]
        manifest.write_text(HEADER + "\n".join(rows), encoding="utf-8")
        caplog.clear()
        dataset = ManifestDataset(str(manifest))
        assert len(getattr(dataset, subset)) == 1 + kept, subset
        assert ("1 images" in caplog.text) == (not kept)
        combined = ManifestDataset(str(manifest), combineall=True)
        assert len(combined.train) == 1 + is_kept[0]


@pytest.mark.parametrize("cameras", ["lr", "ll"])
def test_distractors_are_in_every_gallery_that_is_drawn(
    tmp_path: Path, write_image: Callable[..., Path], cameras: str
) -> None:
    people = [("1", f"{n}.jpg") for n in range(2)] + [
        ("0000", f"0000_c1s1_00000{n}_00.jpg") for n in range(4)
    ]
    rows = [f"{name},{pid},{cameras[n % 2]},test" for n, (pid, name) in enumerate(people)]
    for _, name in people:
        write_image(tmp_path / name)
    (tmp_path / "own.csv").write_text(HEADER + "\n".join([*rows, "0.jpg,-1,l,train"]))
    for query, gallery in ManifestDataset(str(tmp_path / "own.csv")).splits:
        assert [Path(path).name[:4] for path, _, _ in query] in (["0.jp"], ["1.jp"])
        assert [Path(path).name[:4] for path, _, _ in gallery[1:]] == ["0000"] * 4
        assert query[0][1] not in {identity for _, identity, _ in gallery[1:]}


def test_equal_labels_of_two_domains_are_not_compared(write_manifest: WriteManifest) -> None:
    rows = [f"img/{n}.jpg,1,{n % 2},{'ab'[n // 2]},test\n" for n in range(4)]
    text = "path,pid,camid,domain,subset\n" + "".join(rows)
    for query, gallery in ManifestDataset(write_manifest(text)).splits:
        numbers = {int(Path(path).stem) for path, _, _ in query + gallery}
        assert numbers in ({0, 1}, {2, 3})


def test_combineall_trains_on_every_image_once(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    dataset = ManifestDataset(write_manifest(FULL), combineall=True)
    assert sorted(item[0] for item in dataset.train) == [
        str(tmp_path / f"img/{number}.jpg") for number in range(6)
    ]
    assert len(dataset.train_domains) == 6
    # Image 0 keeps the label of its first row; bert's two images stay one person.
    people = {Path(path).name: identity for path, identity, _ in dataset.train}
    assert people["0.jpg"] == people["1.jpg"]
    assert people["4.jpg"] == people["5.jpg"]
    assert len(set(people.values())) == 4


def test_file_is_found_from_working_directory_and_datasets_root(
    write_manifest: WriteManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(FULL)
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    assert len(build_dataset("own.csv").train) == 3
    monkeypatch.setenv("FASTREID_DATASETS", "elsewhere")
    monkeypatch.chdir(tmp_path)
    dataset = build_dataset("own.csv")
    assert dataset.train[0][0] == "img/0.jpg"


HEADER = "path,pid,camid,subset\n"
BAD: dict[str, tuple[str | bytes, list[str]]] = {
    "no column": ("path,pid\nimg/0.jpg,1\n", ["no column 'camid'", "'path,pid'"]),
    "other delimiter": ("path;pid;camid\nimg/0.jpg;1;1\n", ["no column 'path'"]),
    "empty file": ("", ["no column 'path'"]),
    "no rows": (HEADER, ["has no rows"]),
    "empty value": (HEADER + "img/0.jpg,1,1,\nimg/1.jpg, ,1,\n", ["line 3,", "no 'pid'"]),
    "short line": (HEADER + "img/0.jpg,1\n", ["line 2,", "no 'camid'"]),
    "empty domain": ("path,pid,camid,domain\nimg/0.jpg,1,1,\n", ["line 2,", "no 'domain'"]),
    "subset": (
        HEADER + "img/0.jpg,1,1,probe\n",
        ["line 2,", "'probe'", "train, query, gallery, test"],
    ),
    "test and query": (
        HEADER + "img/0.jpg,1,1,train\nimg/1.jpg,1,1,test\nimg/2.jpg,1,2,query\n",
        ["line 4,", "query, but line 3 has test"],
    ),
    "gallery and test": (
        HEADER + "img/0.jpg,1,1,gallery\nimg/1.jpg,1,1,test\n",
        ["line 3,", "test, but line 2 has gallery"],
    ),
    "nobody to test": (
        HEADER + "img/0.jpg,1,1,test\nimg/1.jpg,1,1,test\nimg/2.jpg,2,2,test\n",
        ["3 test images", "two cameras"],
    ),
    "image": (HEADER + "img/9.jpg,1,1,\n", ["line 2,", "img/9.jpg", "does not exist", "folder"]),
    "folder": (HEADER + "img,1,1,\n", ["line 2,", "img, which is not a file"]),
    "column twice": ("path,pid,camid, pid\nimg/0.jpg,1,1,2\n", ["the column 'pid' twice"]),
    "bare comma": (HEADER + "img/0.jpg,1,1,query,7\n", ["line 2,", "5 values for 4 columns"]),
    "open quote": (HEADER + 'img/0.jpg,"1,1,\nimg/1.jpg,1,1,\n', ["line 3,", "no 'camid'"]),
    "huge value": (HEADER + "img/0.jpg," + 200_000 * "1" + ",1,\n", ["line 2,", "cannot be read"]),
    "long path": (HEADER + 5000 * "x" + ",1,1,\n", ["line 2,", "cannot be read", "..."]),
    "path of two lines": (HEADER + '"img\n0.jpg",1,1,\n', ["line 3,", "does not exist"]),
    "twice": (
        HEADER + "img/0.jpg,1,1,train\nimg/1.jpg,1,1,train\n./img/0.jpg,2,1,train\n",
        ["line 4,", "img/0.jpg", "line 2", "train"],
    ),
    "encoding": (
        "path,pid,camid\nimg/0.jpg,å,1\n".encode("latin-1"),
        ["line 2,", "is not UTF-8"],
    ),
    "binary": (b"path,pid,camid\nimg/0.jpg,1,1\n\0\0\0\n", ["line 3"]),
}


@pytest.mark.parametrize("fault", BAD)
def test_fault_is_named_with_its_line(write_manifest: WriteManifest, fault: str) -> None:
    text, words = BAD[fault]
    path = write_manifest(text)
    with pytest.raises(DatasetError) as caught:
        ManifestDataset(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_empty_image_file_is_named(write_manifest: WriteManifest, tmp_path: Path) -> None:
    (tmp_path / "img/5.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"line 2, names the image .*5\.jpg, which is empty"):
        ManifestDataset(write_manifest(HEADER + "img/5.jpg,1,1,train\n"))


def test_missing_file_is_named_with_both_places(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"Manifest own\.csv .*working directory.*root /data;"):
        ManifestDataset("own.csv", root="/data")
    with pytest.raises(DatasetError, match=rf"^Manifest {tmp_path}/own\.csv does not exist;"):
        ManifestDataset(str(tmp_path / "own.csv"), root="/data")


def test_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        ManifestDataset(str(tmp_path))


def test_a_pipe_in_place_of_a_file_is_named(write_manifest: WriteManifest, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DatasetError, match=r"pipe\.csv cannot be read \(Not a regular file\)"):
        ManifestDataset(str(tmp_path / "pipe.csv"), "")
    os.mkfifo(tmp_path / "img/pipe.jpg")
    text = "path,pid,camid\nimg/pipe.jpg,anna,left\n"
    with pytest.raises(DatasetError, match=r"pipe\.jpg, which is not a file"):
        ManifestDataset(write_manifest(text), "")


def test_surplus_empty_values_are_those_of_a_spreadsheet(write_manifest: WriteManifest) -> None:
    dataset = ManifestDataset(write_manifest("path,pid,camid,,\nimg/0.jpg,1,1,,,,\n\n"))
    assert len(dataset.train) == 1


def test_all_faults_can_be_collected(write_manifest: WriteManifest) -> None:
    rows = ["img/9.jpg,1,1,", "img/0.jpg,1,1,", "img/1.jpg,,1,", "img/0.jpg,1,1,", "a,b,c,d,e"]
    faults: list[DatasetError] = []
    dataset = ManifestDataset(write_manifest(HEADER + "\n".join(rows)), on_fault=faults.append)
    assert len(dataset.train) == 1
    lines = [str(fault).split(", ")[1] for fault in faults]
    assert lines == ["line 2", "line 4", "line 5", "line 6"]


def test_a_name_that_no_file_can_have_is_named() -> None:
    for name in ("a\0.csv", 5000 * "x" + ".csv"):
        with pytest.raises(DatasetError, match=r"^Manifest "):
            ManifestDataset(name)
