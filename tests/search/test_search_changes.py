"""Indexes that are added to, removed from and merged, and what killing leaves of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabin_plugin.cli import index as index_command
from metabin_plugin.cli import query as query_command
from metabin_plugin.cli.main import execute
from metabin_plugin.errors import DatasetError, SearchError
from metabin_plugin.search.engine import search_index
from metabin_plugin.search.index_file import Gallery, read_gallery
from metabin_plugin.search.vectors import Parts
from tests import processes
from tests.engine.tiny_data import CONFIGS, write_manifest

DIMENSION = 6
KINDS = {
    "flat": [],
    "ivf": ["--lists", "4", "--probes", "4"],
    "ivf-pq": ["--lists", "2", "--probes", "2", "--bytes", "3"],
}


def write_features(folder: Path, count: int, parts: int) -> tuple[np.ndarray, list[Path]]:
    """Rows as one file, ``all.npy``, and the files of their parts."""
    rows = np.random.default_rng(3).normal(size=(count, DIMENSION)).astype(np.float32)
    np.save(folder / "all.npy", rows)
    paths = []
    for number, part in enumerate(np.split(rows, parts)):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], part)
    return rows, paths


def index_features(features: Path, output: Path, kind: str, *more: str) -> None:
    options = ["--features", str(features), "--output", str(output), "--kind", kind]
    execute(["index", *options, *KINDS[kind], *more])


def answers(gallery: Gallery, queries: np.ndarray) -> list[list[tuple[str, float]]]:
    """Name and distance of the 20 nearest of each query."""
    found = search_index(gallery.index, queries.copy(), 20, gallery.header.metric)
    return [
        [(gallery.names[row], distance) for distance, row in zip(*lists, strict=True)]
        for lists in zip(*(array.tolist() for array in found), strict=True)
    ]


def nearest(rows: np.ndarray, queries: np.ndarray) -> list[list[int]]:
    """By brute force, in float64."""
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    distances = ((queries[:, None] - rows) ** 2).sum(2)
    return np.argsort(distances, 1, kind="stable")[:, :20].tolist()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_ten_parts_are_one_flat_index(tmp_path: Path, metric: str) -> None:
    _, parts = write_features(tmp_path, 400, 10)
    whole, grown = tmp_path / "whole.index", tmp_path / "grown.index"
    index_features(tmp_path / "all.npy", whole, "flat", "--metric", metric)
    index_features(parts[0], grown, "flat", "--metric", metric)
    for part in parts[1:]:
        execute(["add", str(grown), "--features", str(part)])
    assert grown.read_bytes() == whole.read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["ivf", "ivf-pq"])
def test_ten_parts_are_one_index_of_the_same_lists(tmp_path: Path, kind: str) -> None:
    rows, parts = write_features(tmp_path, 4000, 10)
    whole, grown = tmp_path / "whole.index", tmp_path / "grown.index"
    np.save(tmp_path / "rest.npy", rows[400:])
    for output in (whole, grown):
        index_features(parts[0], output, kind, "--metric", "euclidean")
    execute(["add", str(whole), "--features", str(tmp_path / "rest.npy")])
    for part in parts[1:]:
        execute(["add", str(grown), "--features", str(part)])
    assert grown.read_bytes() == whole.read_bytes()
    gallery = read_gallery(grown)
    assert list(gallery.names) == [str(number) for number in range(4000)]
    found = [[int(name) for name, _ in near] for near in answers(gallery, rows[:30])]
    exact = nearest(rows, rows[:30])
    if kind == "ivf":
        assert found == exact  # All lists are searched.
    recall = [len({*a} & {*b}) for a, b in zip(found, exact, strict=True)]
    assert np.mean(recall) > 8


@pytest.mark.parametrize("kind", list(KINDS))
def test_removed_entries_are_as_if_never_added(tmp_path: Path, kind: str) -> None:
    rows, (first, second) = write_features(tmp_path, 600, 2)
    index, expected = tmp_path / "g.index", tmp_path / "e.index"
    index_features(first, index, kind, "--metric", "euclidean")
    execute(["add", str(index), "--features", str(second)])
    before = answers(read_gallery(index), rows[:9])
    # All of the first part, from which lists were learned, but 3; some are the last of their lists.
    gone = [*range(3, 300), 300, 450, 599]
    (tmp_path / "list.txt").write_text("\n".join(map(str, gone[2:])))
    execute(["remove", str(index), "3", "4", "--list", str(tmp_path / "list.txt")])
    left = read_gallery(index)
    stay = [number for number in range(600) if number not in gone]
    assert list(left.names) == [str(number) for number in stay]
    assert left.index.ntotal == len(stay)
    after = answers(left, rows[:9])
    for one, other in zip(before, after, strict=True):
        kept = [pair for pair in one if int(pair[0]) not in gone]
        assert other[: len(kept)] == kept
    if kind == "flat":
        np.save(tmp_path / "stay.npy", rows[stay])
        (tmp_path / "ids.txt").write_text("\n".join(map(str, stay)))
        ids = ["--metric", "euclidean", "--ids", str(tmp_path / "ids.txt")]
        index_features(tmp_path / "stay.npy", expected, kind, *ids)
        assert index.read_bytes() == expected.read_bytes()
    # Numbers of new ones do not come twice.
    execute(["add", str(index), "--features", str(first)])
    names = list(read_gallery(index).names)
    assert len(set(names)) == len(names) and names[len(stay)] == "599"


def test_fewer_entries_than_lists_are_an_index(tmp_path: Path) -> None:
    rows, _ = write_features(tmp_path, 400, 1)
    index = tmp_path / "g.index"
    index_features(tmp_path / "all.npy", index, "ivf", "--metric", "euclidean")
    execute(["remove", str(index), *map(str, range(398))])
    found = answers(read_gallery(index), rows[399:])
    assert [name for name, _ in found[0]] == ["399", "398"]


@pytest.mark.parametrize("other_kind", list(KINDS))
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_merged_index_has_the_answers_of_both(
    tmp_path: Path, kind: str, other_kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, (first, second) = write_features(tmp_path, 600, 2)
    one, two, both = (tmp_path / f"{name}.index" for name in ("one", "two", "both"))
    index_features(first, one, kind, "--metric", "euclidean")
    index_features(second, two, other_kind, "--metric", "euclidean")
    contents = one.read_bytes(), two.read_bytes()
    merge = ["merge", str(one), str(two), "--output", str(both)]
    if other_kind == "ivf-pq":
        with pytest.raises(SearchError, match="only into one with the same lists and codes"):
            execute(merge)
        assert not both.exists()
        return
    execute(merge)
    assert (one.read_bytes(), two.read_bytes()) == contents
    execute(["add", str(one), "--features", str(second)])
    merged, added = read_gallery(both), read_gallery(one)
    numbers = list(map(str, range(300)))
    assert list(merged.names) == numbers * 2
    found = search_index(merged.index, rows[:9].copy(), 20, "euclidean")
    for array, expected in zip(
        found, search_index(added.index, rows[:9].copy(), 20, "euclidean"), strict=True
    ):
        np.testing.assert_array_equal(array, expected)
    if kind != "ivf-pq":
        assert found[1].tolist() == nearest(rows, rows[:9])


def test_indexes_of_the_same_codes_are_merged(tmp_path: Path) -> None:
    rows, (first, second) = write_features(tmp_path, 600, 2)
    one, two, both = (tmp_path / f"{name}.index" for name in ("one", "two", "both"))
    index_features(first, one, "ivf-pq", "--metric", "euclidean")
    shutil.copy(one, both)
    execute(["add", str(both), "--features", str(second)])
    shutil.copy(both, two)
    execute(["remove", str(two), *map(str, range(300))])
    execute(["merge", str(one), str(two), "--output", str(one)])
    merged, expected = read_gallery(one), read_gallery(both)
    assert list(merged.names) == list(expected.names)
    assert answers(merged, rows[:9]) == answers(expected, rows[:9])


def test_what_cannot_be_changed_is_refused_and_stays(tmp_path: Path) -> None:
    _, (first, second) = write_features(tmp_path, 80, 2)
    index, other, longer = (tmp_path / f"{name}.index" for name in ("one", "other", "longer"))
    index_features(first, index, "flat")
    index_features(second, other, "flat", "--metric", "euclidean")
    np.save(tmp_path / "longer.npy", np.ones((2, 9)))
    np.save(tmp_path / "zero.npy", np.zeros((2, DIMENSION)))
    index_features(tmp_path / "longer.npy", longer, "flat")
    (tmp_path / "ids.txt").write_text("a\nb\n")
    (tmp_path / "empty.txt").write_text("")
    content = index.read_bytes()
    add, remove = ["add", str(index)], ["remove", str(index)]
    ids = ["--ids", str(tmp_path / "ids.txt")]
    merge = ["merge", str(index), "--output", str(index)]
    wrong = [
        ("of 9 values and the index of 6", [*add, "--features", str(tmp_path / "longer.npy")]),
        ("feature 0 .* is zero", [*add, "--features", str(tmp_path / "zero.npy")]),
        ("has 2 lines for 40 features", [*add, "--features", str(second), *ids]),
        ("without a network; add --features", [*add, "--gallery", str(tmp_path)]),
        ("come without a network", [*add, "--features", str(second), "--skip-unreadable"]),
        ("--ids and --cameras belong to --features", [*add, "--gallery", str(tmp_path), *ids]),
        ("nothing is named", remove),
        ("nothing is named", [*remove, "--list", str(tmp_path / "empty.txt")]),
        ("has no '40'; correct it", [*remove, "3", "40"]),
        ("without an entry; delete the file", [*remove, *map(str, range(40))]),
        (
            "6 values, cosine, and .* 6 values, euclidean; merge indexes of one",
            [*merge, str(other)],
        ),
        ("6 values, cosine, and .* 9 values, cosine; merge", [*merge, str(longer)]),
        ("No such file", ["add", str(tmp_path / "absent.index"), "--features", str(second)]),
        ("is no index of this tool", ["remove", str(second), "1"]),
    ]
    for words, arguments in wrong:
        with pytest.raises(SearchError, match=words):
            execute(arguments)
        assert index.read_bytes() == content


class Describer:
    """Stands for a network: features that tell which picture it was; nothing is trained."""

    def __init__(self, cfg: Any) -> None:
        self._seed = int(Path(cfg.MODEL.WEIGHTS).read_text())

    def probe(self) -> np.ndarray:
        return self._feature(b"")

    def describe(
        self, paths: Sequence[str], skip_unreadable: bool = False
    ) -> tuple[np.ndarray, list[str]]:
        features, faults = [], []
        for path in paths:
            content = Path(path).read_bytes()
            if not content and not skip_unreadable:
                raise DatasetError(f"{path} is empty; remove it")
            features.append(self._feature(content) if content else np.full(DIMENSION, np.nan))
            faults.append("" if content else f"{path} is empty")
        return np.array(features, np.float32), faults

    def _feature(self, content: bytes) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(content).digest()[:4], "little")
        return np.random.default_rng([self._seed, seed]).normal(size=DIMENSION).astype(np.float32)


class SmallParts(Parts):
    """Parts of two images."""

    def __init__(self, output: Path, paths: Sequence[str], source: Sequence[str]) -> None:
        super().__init__(output, paths, source, size=2)


def without_a_network() -> None:
    """Let the commands take ``Describer`` for the network."""
    index_command.Describer = Describer  # type: ignore[misc, assignment]
    index_command.Parts = SmallParts  # type: ignore[misc]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with folders ``north`` and ``south`` of three and four images each."""
    for name in ("Describer", "Parts"):
        monkeypatch.setattr(index_command, name, getattr(index_command, name))
    without_a_network()
    folder = tmp_path / "photos"
    for number, name in enumerate(
        ["north/1", "north/2", "north/3", *(f"south/{n}" for n in "abcd")]
    ):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8), (30 * number, 0, 9)).save(path)
    for seed in "01":
        (tmp_path / f"{seed}.pth").write_text(seed)
    return folder


def index_images(gallery: Path, output: Path, weights: str = "0.pth") -> None:
    config = ["--config-file", str(CONFIGS / "MetaBIN.yml")]
    where = ["--gallery", str(gallery), "--output", str(output)]
    network = ["MODEL.WEIGHTS", str(gallery.parents[gallery.name != "photos"] / weights)]
    execute(["index", *config, *where, *network])


def vectors_by_name(index: Path) -> dict[str, list[float]]:
    gallery = read_gallery(index)
    rows = gallery.index.reconstruct_n(0, gallery.index.ntotal)
    return dict(zip(gallery.names, rows.tolist(), strict=True))


def test_images_of_another_folder_are_added(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, grown = tmp_path / "whole.index", tmp_path / "grown.index"
    index_images(photos, whole)
    index_images(photos / "north", grown)
    assert list(read_gallery(grown).names) == ["1.png", "2.png", "3.png"]
    execute(["add", str(grown), "--gallery", str(photos / "south")])
    # The names are from the folder on that has both; the file is that of one build.
    assert grown.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.parts"))
    capsys.readouterr()
    execute(["add", str(grown), "--gallery", str(photos)])
    assert "7 images are in the index already" in capsys.readouterr().out
    assert grown.read_bytes() == whole.read_bytes() and not list(tmp_path.glob("*.parts"))
    Image.new("RGB", (4, 8), "white").save(photos / "new.png")
    execute(["add", str(grown), "--gallery", str(photos)])
    index_images(photos, whole)
    assert vectors_by_name(grown) == vectors_by_name(whole)
    assert list(read_gallery(grown).names)[-1] == "new.png"


def test_images_are_removed_by_paths_and_names(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "g.index"
    Image.new("RGB", (4, 8), "white").save(photos / "1.png")
    index_images(photos, index)
    before = vectors_by_name(index)
    (photos / "south" / "a.png").unlink()
    # A path from here comes before a name: 1.png is there, too.
    monkeypatch.chdir(photos / "north")
    execute(["remove", str(index), "1.png", "../south/a.png", str(photos / "south" / "b.png")])
    assert list(read_gallery(index).names) == [
        *("1.png", "north/2.png", "north/3.png", "south/c.png", "south/d.png")
    ]
    execute(["remove", str(index), "1.png", "south/c.png"])
    left = vectors_by_name(index)
    assert list(left) == ["north/2.png", "north/3.png", "south/d.png"]
    assert left == {name: before[name] for name in left}


def test_an_empty_line_in_a_list_of_images_names_none(photos: Path, tmp_path: Path) -> None:
    index, names = tmp_path / "g.index", tmp_path / "list.txt"
    index_images(photos, index)
    names.write_text("\nnorth/1.png\n\nsouth/a.png\n\n")
    execute(["remove", str(index), "--list", str(names)])
    assert len(read_gallery(index).names) == 5
    content = index.read_bytes()
    # What an unset variable of a shell gives.
    with pytest.raises(SearchError, match="has no ''; correct it"):
        execute(["remove", str(index), ""])
    names.write_text("\n\n")
    with pytest.raises(SearchError, match="nothing is named"):
        execute(["remove", str(index), "--list", str(names)])
    assert index.read_bytes() == content


def test_an_image_on_another_drive_is_none_of_the_index(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where no relative path leads from one drive to another."""
    index = tmp_path / "g.index"
    index_images(photos, index)
    relpath = os.path.relpath

    def on_windows(path: str, start: str) -> str:
        if path.startswith("D:") or path == os.path.realpath("D:"):
            raise ValueError("path is on mount 'D:', start on mount 'C:'")
        return relpath(path, start)

    monkeypatch.setattr(os.path, "relpath", on_windows)
    with pytest.raises(SearchError, match=r"has no 'D:/1\.png'; correct it, or leave it out"):
        execute(["remove", str(index), "D:/1.png"])
    execute(["remove", str(index), "north/1.png"])
    assert "north/1.png" not in list(read_gallery(index).names)


def test_a_folder_of_two_names_is_one_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a mounted disk or a home folder often has, and `cd` into a link gives."""
    index, whole, other = (tmp_path / f"{name}.index" for name in ("g", "whole", "other"))
    link = tmp_path / "link"
    link.symlink_to(photos)
    index_images(photos, whole)
    content = whole.read_bytes()
    for first, more in [
        (photos, link),
        (photos / "north", link),
        (photos / "north", link / "south"),
        (link / "north", photos),
    ]:
        index_images_by(tmp_path, first, index)
        execute(["add", str(index), "--gallery", str(more)])
        assert list(read_gallery(index).names) == list(read_gallery(whole).names)
        assert vectors_by_name(index) == vectors_by_name(whole)
        found = read_gallery(index)
        assert os.path.realpath(found.path(0)) == str(photos / "north" / "1.png")
        # Further images of the same folder do not get another name.
        execute(["add", str(index), "--gallery", str(photos)])
        assert list(read_gallery(index).names) == list(found.names)
        index_images_by(tmp_path, first, index)
        index_images_by(tmp_path, more, other)
        execute(["merge", str(index), str(other), "--output", str(index)])
        assert vectors_by_name(index) == vectors_by_name(whole)

    monkeypatch.chdir(photos / "north")
    execute(
        ["remove", str(whole), str(link / "south" / "a.png"), "../../link/north/2.png", "3.png"]
    )
    assert list(read_gallery(whole).names) == [f"{n}.png" for n in ("north/1", *SOUTH[1:])]
    whole.write_bytes(content)
    # An image that is a link is not the one that it leads to.
    (photos / "north" / "4.png").symlink_to(photos / "south" / "b.png")
    with pytest.raises(SearchError, match=r"has no '.*4\.png'; correct it"):
        execute(["remove", str(whole), str(link / "north" / "4.png")])


SOUTH = [f"south/{name}" for name in "abcd"]


def index_images_by(folder: Path, gallery: Path, output: Path) -> None:
    config = ["--config-file", str(CONFIGS / "MetaBIN.yml"), "--gallery", str(gallery)]
    execute(["index", *config, "--output", str(output), "MODEL.WEIGHTS", str(folder / "0.pth")])


def test_no_command_writes_over_what_it_reads(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_command, "Describer", Describer)
    monkeypatch.chdir(tmp_path)
    _, (first, second) = write_features(tmp_path, 80, 2)
    for name in ("ids.txt", "cameras.txt"):
        (tmp_path / name).write_text("a\n" * 40)
    write_manifest(tmp_path, "site", 1, identities=2, images=3, subset="test")
    shutil.copy(photos / "north" / "1.png", "person.png")
    Path("ready.index").symlink_to("ready")
    index_features(first, Path("ready"), "flat")
    index_images(photos, Path("g.index"))
    features = ["--features", first.name, "--ids", "ids.txt"]
    by_camera = ["--by-camera", "--cameras", "cameras.txt"]
    config = ["--config-file", str(CONFIGS / "MetaBIN.yml")]
    asks = {
        "1.png": ["photos/north/1.png"],
        "photos/north/2.png": ["photos/north"],
        # Of the gallery, and not asked for.
        "photos/south/a.png": ["person.png"],
        "person.png": ["photos/south", "./person.png"],
        "site/1_0.png": ["site.csv"],
    }
    Path("1.png").symlink_to("photos/north/1.png")
    lines = [
        *(["index", *features, *by_camera, "--output", path] for path in (first.name, "ids.txt")),
        ["index", *features, *by_camera, "--output", "cameras.txt"],
        ["index", *config, "--gallery", "site.csv", "--output", "site.csv"],
        ["query", "ready", second.name, "--output", "ready"],
        ["query", "g.index", "site.csv", "--output", "site.csv"],
        *(
            ["query", "g.index", *queries, "--output", str(Path(sheet).with_suffix(end))]
            for sheet, queries in asks.items()
            for end in (".csv", ".json")
        ),
        *(
            ["query", "g.index", *queries, "--output", "f.csv", "--sheet", sheet]
            for sheet, queries in asks.items()
        ),
    ]

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = contents()
    for line in lines:
        with pytest.raises(SearchError, match=r"^--\w+ \S+ is a file that is read; give another"):
            execute(line)
        assert contents() == before
    # Former results are none of these.
    for _ in range(2):
        execute(["query", "g.index", "person.png", "--output", "photos/found.csv"])
    assert Path("photos/found.png").exists()


def test_images_of_two_indexes_are_merged_once(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, north, both = (tmp_path / f"{name}.index" for name in ("whole", "north", "both"))
    index_images(photos, whole)
    index_images(photos / "north", north)
    execute(["merge", str(north), str(whole), "--output", str(both)])
    assert "3 images of" in capsys.readouterr().out
    assert both.read_bytes() == whole.read_bytes()
    index_images(photos / "south", both, "1.pth")
    with pytest.raises(SearchError, match=r"does not fit .* features of other weights"):
        execute(["merge", str(north), str(both), "--output", str(whole)])


def test_images_that_cannot_be_read_leave_the_index_as_it_was(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "g.index"
    index_images(photos / "north", index)
    content = index.read_bytes()
    (photos / "south" / "b.png").write_bytes(b"")
    add = ["add", str(index), "--gallery", str(photos / "south")]
    with pytest.raises(SearchError, match=r"is empty; remove it; or .* --skip-unreadable"):
        execute(add)
    assert index.read_bytes() == content
    weights = ["--opts", "MODEL.WEIGHTS", str(tmp_path / "1.pth")]
    with pytest.raises(SearchError, match="features of other weights"):
        execute([*add, *weights])
    execute([*add, "--skip-unreadable"])
    assert "left out: " in capsys.readouterr().err
    names = [f"south/{name}.png" for name in "acd"]
    assert list(read_gallery(index).names)[3:] == names


def killed_at(event: int, words: list[str], folder: str) -> None:
    """Run a command, and end this process at one of the things that it does to files.

    Args:
        event: at which, from 0 on, before it is done.
        words: of the command.
        folder: opening, renaming and removing there counts, and so does writing back to the disk.
    """
    without_a_network()
    left = event

    def count() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def see(name: str, given: tuple[Any, ...]) -> None:
        changes = name in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if name == "open":
            changes = isinstance(given[2], int) and bool(given[2] & (os.O_WRONLY | os.O_RDWR))
        if changes and str(given[0]).startswith(folder):
            count()

    sync = os.fsync

    def fsync(handle: int) -> None:
        count()
        sync(handle)

    os.fsync = fsync
    sys.addaudithook(see)
    execute(words)


@pytest.mark.parametrize(
    "what", [pytest.param("images", marks=pytest.mark.slow), "features", "features by camera"]
)
def test_an_add_that_is_killed_loses_nothing(photos: Path, tmp_path: Path, what: str) -> None:
    start, index = tmp_path / "start.index", tmp_path / "work" / "g.index"
    index.parent.mkdir()
    _, (first, second) = write_features(tmp_path, 80, 2)
    if what == "images":
        index_images(photos / "north", start)
        more = ["--gallery", str(photos / "south")]
    elif what == "features by camera":
        (tmp_path / "cameras.txt").write_text("gate\nyard\n" * 20)
        cameras = ["--cameras", str(tmp_path / "cameras.txt")]
        index_features(first, start, "flat", "--by-camera", *cameras)
        more = ["--features", str(second), *cameras]
    else:
        index_features(first, start, "ivf", "--lists", "2", "--probes", "2")
        more = ["--features", str(second)]
    add = ["add", str(index), *more]
    shutil.copy(start, index)
    execute(add)
    old, new = start.read_bytes(), index.read_bytes()
    seen = set()
    for event in range(100):
        shutil.rmtree(index.parent)
        index.parent.mkdir()
        shutil.copy(start, index)
        process = processes.start(killed_at, event, add, str(index.parent))
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        there = index.read_bytes()
        assert there in (old, new)
        seen.add(there)
        if there == old or what == "images":
            execute(add)
            assert index.read_bytes() == new
            assert sorted(path.name for path in index.parent.iterdir()) == ["g.index"]
        if process.exitcode == 0:
            break
    # Before and behind the renaming of the index; with images there are two parts and their folder.
    assert seen == {old, new} and event > (20 if what == "images" else 2)


def test_an_add_that_is_killed_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "g.index"
    index_images(photos / "north", index)
    described: list[str] = []
    describe = Describer.describe

    def counting(self: Describer, paths: Sequence[str], skip: bool = False) -> Any:
        if described and stops:
            os.kill(os.getpid(), signal.SIGTERM)
        described.extend(Path(path).name for path in paths)
        return describe(self, paths, skip)

    monkeypatch.setattr(Describer, "describe", counting)
    add = ["add", str(index), "--gallery", str(photos / "south")]
    stops = True
    with pytest.raises(SystemExit):
        execute(add)
    stops = False
    execute(add)
    assert described == ["a.png", "b.png", "c.png", "d.png"]


def test_an_index_that_has_outgrown_its_kind_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("metabin_plugin.search.engine.FLAT_UP_TO", 100)
    _, (first, second) = write_features(tmp_path, 160, 2)
    index_features(first, tmp_path / "g.index", "flat")
    assert "`index` would make ivf" not in capsys.readouterr().out
    execute(["add", str(tmp_path / "g.index"), "--features", str(second)])
    assert "`index` would make ivf" in capsys.readouterr().out
