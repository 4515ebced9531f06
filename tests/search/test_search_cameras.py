"""Indexes by camera: what is compared in them, against evaluation and loops over numbers."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metabin_plugin.cli import index as index_command
from metabin_plugin.cli import query as query_command
from metabin_plugin.cli import threshold as threshold_command
from metabin_plugin.cli.main import execute
from metabin_plugin.errors import SearchError
from metabin_plugin.ranking import standardize_by_camera
from metabin_plugin.search.cameras import Cameras, Moments, standardize
from metabin_plugin.search.features import find_gallery, find_queries
from metabin_plugin.search.index_file import BY_CAMERA, MAGIC, Gallery, read_gallery, write_gallery
from tests.campaigns import tries
from tests.engine.tiny_data import CONFIGS, write_manifest
from tests.evaluation.target_trees import write_targets
from tests.search.test_search_changes import Describer, photos, vectors_by_name  # noqa: F401
from tests.search.test_search_foreign import put_together, refuse
from tests.search.test_search_index import some_gallery

DIMENSION = 5
METRICS = ["cosine", "euclidean"]


def draw(count: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Features of three cameras with offsets and scales of their own, and one with one image."""
    random = np.random.default_rng(seed)
    cameras = random.choice(["gate", "yard", "door 日本"], count).tolist()
    cameras[count // 2] = "alone"
    at = np.unique(cameras, return_inverse=True)[1][:, None]
    rows = random.normal(size=(count, DIMENSION)) * (1 + at) + 7 * at
    return rows.astype(np.float32), cameras


def by_hand(rows: np.ndarray, cameras: Sequence[str], others: np.ndarray, camera: str) -> Any:
    """Other images of a camera, standardized by the rows, in float64, a number at a time."""
    every = rows.tolist()
    own = [row for row, name in zip(every, cameras, strict=True) if name == camera]
    own = own if len(own) > 1 else every
    columns = list(zip(*own, strict=True))
    means = [math.fsum(column) / len(own) for column in columns]
    roots = [
        math.sqrt(math.fsum((value - mean) ** 2 for value in column) / len(own))
        for column, mean in zip(columns, means, strict=True)
    ]
    return np.array(
        [
            [
                (value - mean) / root if root > 1e-9 else 0
                for value, mean, root in zip(row, means, roots, strict=True)
            ]
            for row in others.tolist()
        ]
    )


def all_by_hand(rows: np.ndarray, cameras: Sequence[str]) -> np.ndarray:
    return np.concatenate(
        [by_hand(rows, cameras, row[None], name) for row, name in zip(rows, cameras, strict=True)]
    )


def far(queries: np.ndarray, gallery: np.ndarray, metric: str) -> np.ndarray:
    if metric == "euclidean":
        return ((queries[:, None] - gallery) ** 2).sum(2)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(gallery, axis=1)
    return 1 - np.divide(
        queries @ gallery.T, lengths, out=np.zeros_like(lengths), where=lengths > 0
    )


def write(folder: Path, name: str, rows: np.ndarray, cameras: Sequence[str]) -> list[str]:
    """Options of features and their cameras."""
    np.save(folder / f"{name}.npy", rows)
    (folder / f"{name}.txt").write_text("".join(f"{camera}\n" for camera in cameras), "utf-8")
    return ["--features", str(folder / f"{name}.npy"), "--cameras", str(folder / f"{name}.txt")]


def index(output: Path, options: list[str], metric: str = "cosine") -> None:
    execute(["index", "--by-camera", "--metric", metric, "--output", str(output), *options])


def statistics_of(rows: np.ndarray, cameras: Sequence[str]) -> dict[str, Moments]:
    places = np.array(cameras)
    return {name: Moments.of(rows[places == name]) for name in dict.fromkeys(cameras)}


@settings(max_examples=tries(40, 200), deadline=None)
@given(st.data())
def test_moments_are_the_same_in_whatever_order_images_come(data: st.DataObject) -> None:
    """Parts of any sizes, joined in any order and nesting."""
    number = st.floats(-1e6, 1e6, width=32)
    rows = np.array(
        data.draw(st.lists(st.lists(number, min_size=2, max_size=2), min_size=1, max_size=30)),
        np.float32,
    )
    shuffled = data.draw(st.permutations(range(len(rows))))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(rows) - 1)), max_size=6)))
    parts = [Moments.of(rows[part]) for part in np.split(shuffled, cuts) if len(part)]
    while len(parts) > 1:
        first = data.draw(st.integers(0, len(parts) - 2))
        parts[first : first + 2] = [parts[first].joined(parts[first + 1])]
    (found,) = parts
    assert found.number == len(rows)
    for column, values in enumerate(rows.T.tolist()):
        mean = math.fsum(values) / len(values)
        squares = math.fsum((value - mean) ** 2 for value in values)
        size = max(map(abs, values))
        assert found.mean[column] == pytest.approx(mean, rel=1e-12, abs=1e-12 * size)
        assert found.squares[column] == pytest.approx(squares, rel=1e-9, abs=1e-12 * size**2)


@settings(max_examples=tries(40, 200), deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=20), st.integers(0, 1000))
def test_features_are_standardized_as_evaluation_does_it(cameras: list[str], seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = (random.normal(size=(len(cameras), 4)) * [1, 1e-3, 50, 0] + [0, 1, 9, 0.1]).astype("f4")
    found = standardize(rows, cameras, statistics_of(rows, cameras))
    np.testing.assert_allclose(found, all_by_hand(rows, cameras), rtol=1e-5, atol=1e-5)
    assert (found[:, 3] == 0).all()
    # In float32 few images that hardly differ have a deviation of few digits.
    evaluated = standardize_by_camera(torch.from_numpy(rows).double(), cameras).numpy()
    np.testing.assert_allclose(found, evaluated, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_answers_are_those_of_standardized_features(tmp_path: Path, metric: str) -> None:
    rows, cameras = draw(300)
    queries, _ = draw(8, seed=1)
    # Two images of a camera that are the same are standardized to nothing.
    rows[:2], cameras[:2] = rows[0], ["twins", "twins"]
    index(tmp_path / "g.index", write(tmp_path, "g", rows, cameras), metric)
    np.save(tmp_path / "q.npy", queries)
    ask = ["query", str(tmp_path / "g.index"), str(tmp_path / "q.npy"), "--top", "300"]
    for camera in ("yard", "alone", "door 日本", "twins"):
        execute([*ask, "--camera", camera, "--output", str(tmp_path / "f.csv")])
        with (tmp_path / "f.csv").open(newline="") as file:
            found = [(row["path"], float(row["distance"])) for row in csv.DictReader(file)]
        distances = far(by_hand(rows, cameras, queries, camera), all_by_hand(rows, cameras), metric)
        for start, expected in zip(range(0, 2400, 300), distances, strict=True):
            near = found[start : start + 300]
            np.testing.assert_allclose(
                [distance for _, distance in near],
                [expected[int(name)] for name, _ in near],
                rtol=2e-5,
                atol=2e-5,
            )
            assert len({name for name, _ in near}) == 300
            assert [distance for _, distance in near] == sorted(distance for _, distance in near)


@pytest.mark.parametrize("metric", METRICS)
def test_ten_parts_removing_and_merging_give_the_file_of_one_build(
    tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, in blocks that the parts do not end with."""
    monkeypatch.setattr("metabin_plugin.search.cameras.ROWS", 37)
    rows, cameras = draw(400)
    whole, grown, other = (tmp_path / f"{name}.index" for name in ("whole", "grown", "other"))
    index(whole, write(tmp_path, "all", rows, cameras), metric)
    parts = [
        write(tmp_path, str(start), rows[start : start + 40], cameras[start : start + 40])
        for start in range(0, 400, 40)
    ]
    index(grown, parts[0], metric)
    for part in parts[1:]:
        execute(["add", str(grown), *part])
    assert grown.read_bytes() == whole.read_bytes()

    # Another camera becomes the first one, and one is not there any more.
    gone = [row for row, name in enumerate(cameras) if name == "gate"][:60]
    gone += [cameras.index("alone"), 399]
    execute(["remove", str(grown), *map(str, gone)])
    stay = [row for row in range(400) if row not in gone]
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"{row}\n" for row in stay))
    left = write(tmp_path, "left", rows[stay], [cameras[row] for row in stay])
    index(whole, [*left, "--ids", str(ids)], metric)
    assert grown.read_bytes() == whole.read_bytes()

    index(grown, parts[0], metric)
    index(other, [*parts[1], *named(tmp_path, range(40, 80))], metric)
    execute(["merge", str(grown), str(other), "--output", str(other)])
    index(whole, write(tmp_path, "both", rows[:80], cameras[:80]), metric)
    assert other.read_bytes() == whole.read_bytes()


def named(folder: Path, numbers: range) -> list[str]:
    (folder / "numbers.txt").write_text("".join(f"{number}\n" for number in numbers))
    return ["--ids", str(folder / "numbers.txt")]


def test_the_index_keeps_statistics_and_features(tmp_path: Path) -> None:
    rows, cameras = draw(90)
    path = tmp_path / "g.index"
    index(path, write(tmp_path, "g", rows[:50], cameras[:50]))
    execute(["add", str(path), *write(tmp_path, "m", rows[50:], cameras[50:])])
    read = read_gallery(path)
    assert read.cameras is not None and list(read.cameras) == cameras
    np.testing.assert_array_equal(read.index.reconstruct_n(0, 90), rows)
    assert read.cameras.calibrated is None
    names = np.array(cameras)
    assert list(read.cameras.statistics) == list(dict.fromkeys(cameras))
    for name, moments in read.cameras.statistics.items():
        own = rows[names == name].astype(np.float64)
        assert moments.number == len(own)
        np.testing.assert_allclose(moments.mean, own.mean(0), rtol=1e-13)
        np.testing.assert_allclose(moments.squares, own.var(0) * len(own), rtol=1e-12)


def test_an_index_without_cameras_is_the_file_that_it_was(tmp_path: Path) -> None:
    rows, cameras = draw(60)
    options = write(tmp_path, "g", rows, cameras)
    execute(["index", *options[:2], "--output", str(tmp_path / "plain.index")])
    index(tmp_path / "g.index", options)
    assert (tmp_path / "plain.index").read_bytes().startswith(MAGIC)
    assert (tmp_path / "g.index").read_bytes().startswith(BY_CAMERA)
    assert read_gallery(tmp_path / "plain.index").cameras is None


def calibrated(
    rows: np.ndarray, cameras: Sequence[str], more: np.ndarray, own: Sequence[str]
) -> Any:
    """Cameras of all rows, with a threshold that was found when the first ones were there."""
    before = Cameras.of(cameras, flat(rows))
    every = flat(np.concatenate([rows, more]))
    return Cameras.of([*cameras, *own], every, before.statistics)


def flat(rows: np.ndarray) -> Any:
    import faiss

    found = faiss.IndexFlatL2(rows.shape[1])
    found.add(rows)
    return found


def test_a_move_is_that_of_the_images_that_were_there() -> None:
    rows, cameras = draw(120)
    rows[:, 2] = np.where(np.array(cameras) == "gate", 4, rows[:, 2])
    more, own = draw(70, seed=5)
    own = ["alone" if name == "door 日本" else name.replace("alone", "new") for name in own]
    after = calibrated(rows, cameras, more, own)
    every, names = np.concatenate([rows, more]), [*cameras, *own]
    moves = after.moves()
    assert list(moves) == list(dict.fromkeys(cameras))
    for name, move in moves.items():
        there = rows[np.array(cameras) == name]
        apart = by_hand(every, names, there, name) - by_hand(rows, cameras, there, name)
        assert move == pytest.approx(math.sqrt((apart**2).mean()), rel=1e-6)
    most = max(moves, key=lambda name: moves[name])
    assert after.caution() == (
        f"Since the threshold was found the images of camera {most!r} moved by {moves[most]:.3f} "
        "deviations, the most of 4 and there are new cameras, 'new'; `metabin threshold` finds it "
        "anew"
    )
    same = calibrated(rows, cameras, rows[:0], [])
    assert set(same.moves().values()) == {0} and same.caution() == ""


FAULTS: dict[str, tuple[int, Any, str]] = {
    "no list": (3, {"gate": 1}, "one or two lists"),
    "no cameras": (3, [[]], "not a list of texts"),
    "numbers": (3, [[1, 2, 3, 4]], "not a list of texts"),
    "half a surrogate pair": (3, [["\ud800", "b", "c", "d"]], "not a list of texts"),
    "twice": (3, [["a", "b", "c", "a"]], "is there twice"),
    "three lists": (3, [list("abcd")] * 3, "one or two lists"),
    "too few": (3, [["a", "b", "c"]], "another length"),
    "more lists": (3, [list("abcd"), list("abcd")], "another length"),
    "a row of none": (0, np.int32(4), "a row in it is of no camera"),
    "a row below": (0, np.int32(-1), "a row in it is of no camera"),
    "a row of another": (0, np.int32(3), "other numbers of rows"),
    "no number": (360, np.int64(0), "are none"),
    "another number": (360, np.int64(7), "other numbers of rows"),
    "a mean that is none": (392, np.float64("nan"), "are none"),
    "a mean beyond all": (392, np.float64(1e300), "are none"),
    "squares below zero": (552, np.float64(-1), "are none"),
    "squares beyond all": (552, np.float64("inf"), "are none"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_cameras_that_no_index_has_are_refused(tmp_path: Path, fault: str) -> None:
    rows, cameras = draw(90)
    # The first row's is not the last of the four.
    cameras[0] = "gate"
    path = tmp_path / "g.index"
    index(path, write(tmp_path, "g", rows, cameras))
    parts = parts_of(path)
    put_together(path, parts, BY_CAMERA)
    assert list(read_gallery(path).cameras or ()) == cameras
    which, value, words = FAULTS[fault]
    if which == 3:
        parts[3] = json.dumps(value).encode()
    else:
        content = bytearray(parts[4])
        data = value.tobytes()
        content[which : which + len(data)] = data
        parts[4] = bytes(content)
    refuse(path, parts, words, BY_CAMERA)


def parts_of(path: Path) -> list[Any]:
    """The parts of a file, the arrays of the index last."""
    content, parts = path.read_bytes()[len(BY_CAMERA) : -4], []
    for _ in range(5):
        end = 8 + int.from_bytes(content[:8], "little")
        parts.append(content[8:end])
        content = content[end:]
    return [*parts, content]


def test_only_a_flat_index_is_by_camera(tmp_path: Path) -> None:
    gallery = some_gallery("ivf")
    names = ["a"] * gallery.index.ntotal
    moments = Moments.of(np.ones((len(names), 4)))
    own = Cameras(np.zeros(len(names), np.int32), {"a": moments})
    write_gallery(tmp_path / "g.index", replace(gallery, cameras=own))
    with pytest.raises(SearchError, match="by camera, but not flat"):
        read_gallery(tmp_path / "g.index")


@settings(max_examples=tries(40, 150), deadline=None)
@given(st.data())
def test_any_bytes_in_an_index_by_camera_give_an_answer_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "any.index"
    rows, cameras = draw(20)
    gallery = Gallery(some_gallery("flat").header, [str(row) for row in range(20)], flat(rows))
    own = Cameras.of(cameras, gallery.index)
    header = replace(gallery.header, probe=[0.5] * DIMENSION, metric="euclidean")
    kept = replace(gallery, cameras=replace(own, calibrated=own.statistics), header=header)
    write_gallery(path, kept)
    parts = parts_of(path)
    which = data.draw(st.sampled_from([3, 4, 5]))
    changed = bytearray(parts[which])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    parts[which] = bytes(changed)
    put_together(path, parts, BY_CAMERA)
    try:
        read = read_gallery(path)
        assert read.cameras is not None
        read.cameras.caution()
        read.cameras.make_comparable(read.index, "cosine")
    except SearchError as error:
        assert str(error).isprintable()
    else:
        assert np.isfinite(read.index.reconstruct_n(0, 20)).all()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    rows, cameras = draw(60)
    options = write(tmp_path, "g", rows, cameras)
    path, plain = tmp_path / "g.index", tmp_path / "plain.index"
    index(path, options)
    execute(["index", *options[:2], "--output", str(plain)])
    content = path.read_bytes()
    make = ["index", "--by-camera", "--output", str(path)]
    short = write(tmp_path, "short", rows, cameras[:-1])
    empty = write(tmp_path, "empty", rows, ["a", "", *cameras[2:]])
    bad = write(tmp_path, "bad", np.full((1, DIMENSION), np.inf), ["a"])
    ask = ["query", str(path), options[1], "--output", str(tmp_path / "f.csv")]
    merge = ["merge", str(path), str(plain), "--output", str(path)]
    wrong = [
        ("--kind is 'ivf', but .* leave --kind or --by", [*make, *options, "--kind", "ivf"]),
        ("not known; give --cameras, a text file", [*make, *options[:2]]),
        ("has 59 lines for 60 features", [*make, *short]),
        ("that of 1 is not known; give --camera", [*make, *empty]),
        ("has values that are not finite", [*make, *bad]),
        *(
            (f"{option} is 2, but an index by camera is flat, .* leave it out$", [*words, "2"])
            for option in ("--lists", "--probes", "--bytes", "--training")
            for words in [[*make, *options, option]]
        ),
        ("are of an index by camera; leave them", ["index", *options, "--output", str(path)]),
        ("not known; give --cameras", ["add", str(path), *options[:2]]),
        ("camera of each image is known without", ["add", str(path), *options, "--camera", "a"]),
        ("are of an index by camera; leave them out", ["add", str(plain), *options]),
        ("--camera is for an index by camera", ["add", str(plain), *options, "--camera", "a"]),
        ("cosine, by camera, and .* cosine; merge indexes of one network", merge),
        ("that of 0 is not known; give --camera", ask),
        ("'gat' of 0 is not in the index, which has .*'gate'.*; co", [*ask, "--camera", "gat"]),
        ("is not by camera", ["query", str(plain), options[1], "--camera", "gate"]),
    ]  # fmt: skip
    for words, arguments in wrong:
        with pytest.raises(SearchError, match=words):
            execute(arguments)
        assert path.read_bytes() == content


def test_a_manifest_names_the_cameras_of_its_images(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, "target", 0, identities=2, images=3, subset="test")
    folder, names, cameras = find_gallery(str(path))
    assert (names, cameras) == (["0_1.png", "0_2.png", "1_1.png", "1_2.png"], ["1", "0"] * 2)
    one = str(Path(folder, names[0]))
    found = find_queries([one, str(path)])
    assert found == ([one, *(str(Path(folder, f"{n}_0.png")) for n in "01")], ["", "0", "0"])
    text = re.sub(r"^(path|.*png),(.*)$", r"\1,\2,north", path.read_text(), flags=re.MULTILINE)
    path.write_text(text.replace("subset,north", "subset,domain"))
    assert find_gallery(str(path))[2] == ["north/1", "north/0"] * 2
    assert find_gallery(folder)[2] == []


def test_a_data_set_numbers_its_cameras_if_it_has_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_targets(tmp_path)
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    _, names, cameras = find_gallery("DG_VIPeR")
    assert cameras == ["1"] * len(names) and names
    assert find_gallery("DG_iLIDS")[2] == []


@pytest.fixture
def site(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A folder with images, a manifest of them with cameras, and a network that is none."""
    for module in (query_command, threshold_command):
        monkeypatch.setattr(module, "Describer", Describer)
    folder = photos.parent
    manifest = write_manifest(folder, "site", 1, identities=6, images=6, subset="test")
    text = manifest.read_text().replace(",0,gal", ",gate,gal").replace(",0,que", ",gate,que")
    manifest.write_text(text.replace(",1,gal", ",yard,gal"))
    return folder


def make(site: Path, output: Path, gallery: object, *more: str) -> None:
    words = ["index", "--config-file", str(CONFIGS / "MetaBIN.yml"), "--gallery", str(gallery)]
    execute([*words, "--output", str(output), *more, "MODEL.WEIGHTS", str(site / "0.pth")])


def test_images_are_indexed_added_and_asked_by_camera(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, found = site / "g.index", site / "f.csv"
    make(site, path, site / "site.csv", "--by-camera")
    said = capsys.readouterr().out
    assert "30 vectors of 6, flat (exact)" in said
    assert "By camera: 2 cameras of 12 to 18 images\n" in said
    add = ["add", str(path), "--gallery", str(site / "photos")]
    with pytest.raises(SearchError, match=r"that of north/1\.png is not known; give --camera"):
        execute(add)
    execute([*add, "--camera", "hall"])
    with pytest.raises(SearchError, match="camera of each image is known without; leave it out"):
        execute(["add", str(path), "--gallery", str(site / "site.csv"), "--camera", "hall"])
    read = read_gallery(path)
    assert list(read.cameras or ())[:6] == ["yard", "gate", "yard", "gate", "yard", "yard"]
    assert list(read.cameras or ())[30:] == ["hall"] * 7
    rows, cameras = read.index.reconstruct_n(0, 37), list(read.cameras or ())
    every = vectors_by_name(path)

    ask = ["query", str(path), "--top", "37", "--sheet-rows", "1", "--output", str(found)]
    execute(
        [*ask, str(site / "photos" / "north" / "1.png"), str(site / "site.csv"), "--camera", "hall"]
    )
    with found.open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 7 * 37
    describer = Describer(type("", (), {"MODEL": type("", (), {"WEIGHTS": site / "0.pth"})}))
    for start, camera in ((0, "hall"), (37, "gate"), (6 * 37, "gate")):
        features, _ = describer.describe([answers[start]["query"]])
        distances = far(
            by_hand(rows, cameras, features, camera), all_by_hand(rows, cameras), "cosine"
        )[0]
        names = [str(Path(answer["path"]).relative_to(site)) for answer in answers[start:][:37]]
        at = [list(every).index(name) for name in names]
        np.testing.assert_allclose(
            [float(answer["distance"]) for answer in answers[start:][:37]], distances[at], atol=1e-5
        )
    with pytest.raises(SearchError, match=r"that of .*1\.png is not known; give --camera, or"):
        execute([*ask, str(site / "photos" / "north" / "1.png"), str(site / "site.csv")])


def test_an_answer_says_by_which_cameras_its_images_are(site: Path) -> None:
    path, found = site / "g.index", site / "f.csv"
    make(site, path, site / "site.csv", "--by-camera")
    with (site / "site.csv").open(newline="") as file:
        camera_of = {str(site / row["path"]): row["camid"] for row in csv.DictReader(file)}
    one = str(site / "photos" / "north" / "1.png")
    camera_of[one] = "yard"
    ask = ["query", str(path), one, str(site / "site.csv"), "--camera", "yard", "--top", "4"]
    execute([*ask, "--output", str(found)])
    with found.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ["query", "rank", "path", "distance", "decision"]
    assert list(rows[0]) == [*columns, "query_camera", "camera"]
    assert len(rows) == 7 * 4
    for row in rows:
        assert row["query_camera"] == camera_of[row["query"]]
        assert row["camera"] == camera_of[row["path"]]
    assert {row["camera"] for row in rows} == {"yard", "gate"}

    execute([*ask, "--output", str(found.with_suffix(".json"))])
    said = json.loads(found.with_suffix(".json").read_text())["queries"]
    assert [query["cameras"] for query in said] == [["yard"], *[["gate"]] * 6]
    entries = [entry for query in said for entry in query["found"]]
    assert [entry["camera"] for entry in entries] == [row["camera"] for row in rows]

    execute([*ask, "--one-person", "--output", str(found)])
    execute([*ask, "--one-person", "--output", str(found.with_suffix(".json"))])
    with found.open(newline="") as file:
        assert [row["query_camera"] for row in csv.DictReader(file)] == ["yard, gate"] * 4
    (query,) = json.loads(found.with_suffix(".json").read_text())["queries"]
    assert query["cameras"] == ["yard", *["gate"] * 6] and len(query["images"]) == 7

    # Readers of an index without cameras find what they always found.
    make(site, path, site / "site.csv")
    execute(["query", str(path), one, "--output", str(found)])
    execute(["query", str(path), one, "--output", str(found.with_suffix(".json"))])
    assert found.read_text().splitlines()[0].split(",") == columns
    (query,) = json.loads(found.with_suffix(".json").read_text())["queries"]
    assert list(query) == ["query", "images", "found"]
    assert list(query["found"][0]) == ["rank", "path", "distance", "decision"]


def test_ready_features_have_the_camera_that_is_given(tmp_path: Path) -> None:
    rows, cameras = draw(30)
    index(tmp_path / "g.index", write(tmp_path, "g", rows, cameras))
    np.save(tmp_path / "q.npy", rows[:3])
    ask = ["query", str(tmp_path / "g.index"), str(tmp_path / "q.npy"), "--camera", "yard"]
    execute([*ask, "--output", str(tmp_path / "f.csv")])
    execute([*ask, "--output", str(tmp_path / "f.json"), "--one-person"])
    with (tmp_path / "f.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert (row["query_camera"], row["camera"]) == ("yard", cameras[int(row["path"])])
    (query,) = json.loads((tmp_path / "f.json").read_text())["queries"]
    assert (query["cameras"], query["images"]) == (["yard"] * 3, [])


def test_a_threshold_is_that_of_standardized_features(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, manifest = site / "g.index", site / "site.csv"
    make(site, path, manifest, "--by-camera")
    find = ["threshold", "--index", str(path), "--dataset", str(manifest)]
    find += ["--false-match-rate", "0.1", "--resamplings", "20"]
    execute(find)
    read = read_gallery(path)
    rows, cameras = read.index.reconstruct_n(0, 30), list(read.cameras or ())
    describer = Describer(type("", (), {"MODEL": type("", (), {"WEIGHTS": site / "0.pth"})}))
    features, _ = describer.describe([str(site / "site" / f"{n}_0.png") for n in range(6)])
    people = [int(Path(name).name[0]) for name in read.names]
    distances = far(by_hand(rows, cameras, features, "gate"), all_by_hand(rows, cameras), "cosine")
    different = np.sort(distances[np.arange(6)[:, None] != people])
    # Fifteen of 150 may be nearer.
    assert read.header.threshold == pytest.approx(different[15], abs=1e-5)
    assert read.cameras is not None and read.cameras.calibrated is not None
    assert read.cameras.caution() == ""

    capsys.readouterr()
    ask = ["query", str(path), str(manifest), "--sheet-rows", "1"]
    ask += ["--output", str(site / "f.csv")]
    execute(ask)
    assert "Since the threshold" not in capsys.readouterr().out
    south = ["--gallery", str(site / "photos" / "south")]
    execute(["add", str(path), *south, "--camera", "gate"])
    caution = read_gallery(path).cameras.caution()  # type: ignore[union-attr]
    assert re.fullmatch(
        r"Since the threshold was found the images of camera 'gate' moved by 0\.\d{3} deviations, "
        r"the most of 2; `metabin threshold` finds it anew",
        caution,
    )
    assert caution in capsys.readouterr().out
    execute(ask)
    assert caution in capsys.readouterr().out
    execute([*ask, "--threshold", "0.5"])
    assert caution not in capsys.readouterr().out
    execute(find)
    assert read_gallery(path).cameras.caution() == ""  # type: ignore[union-attr]


def test_a_threshold_without_images_of_one_person_says_so(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, manifest = site / "g.index", site / "site.csv"
    make(site, path, manifest)
    # Nobody of the queries is in the gallery.
    lines = [re.sub(r"(,)(\d)(,\w+,gallery)", r"\g<1>9\g<2>\g<3>", line)
             for line in manifest.read_text().splitlines()]  # fmt: skip
    (site / "strangers.csv").write_text("\n".join(lines))
    find = ["threshold", "--index", str(path), "--false-match-rate", "0.1", "--resamplings", "20"]
    execute([*find, "--dataset", str(site / "strangers.csv")])
    said = capsys.readouterr().out
    assert "nan" not in said
    assert "are nearer; there is no comparison of the same person, of whom other" in said
    execute([*find, "--dataset", str(manifest)])
    assert re.search(
        r"are nearer, and \d+\.\d% of 18 of the same person\n", capsys.readouterr().out
    )


def test_images_of_no_known_camera_are_refused(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_targets(site / "targets")
    monkeypatch.setenv("FASTREID_DATASETS", str(site / "targets"))
    path, manifest = site / "g.index", site / "site.csv"
    with pytest.raises(SearchError, match="does not say which camera took an image; give --camera"):
        make(site, path, site / "photos", "--by-camera")
    with pytest.raises(SearchError, match="--ids, --metric and --cameras belong to --features"):
        make(site, path, manifest, "--by-camera", "--cameras", "c.txt")
    make(site, path, manifest, "--by-camera")
    other = site / "other.csv"
    other.write_text(manifest.read_text().replace("yard", "street"))
    wrong = [
        (
            r"'street' of .*site/0_1\.png is not in the index, which has 'yard', 'gate'",
            ["threshold", "--index", str(path), "--dataset", str(other)],
        ),
        (
            "the index is by camera, and DG_iLIDS has no cameras; give a manifest",
            ["threshold", "--index", str(path), "--dataset", "DG_iLIDS"],
        ),
        (
            r"camera '0' of .*cam_a.* is not in the index, which has 'yard', 'gate'; correct it",
            ["threshold", "--index", str(path), "--dataset", "DG_VIPeR"],
        ),
        (
            "belong to --features; images have paths",
            ["add", str(path), "--gallery", str(manifest), "--cameras", "c.txt"],
        ),
    ]
    content = path.read_bytes()
    for words, arguments in wrong:
        with pytest.raises(SearchError, match=words):
            execute(arguments)
        assert path.read_bytes() == content


def test_a_gallery_of_one_camera_says_which_one(site: Path) -> None:
    """Folders of cameras become the index of their manifest, whose rows are in the same order."""
    path, whole, north = site / "g.index", site / "whole.index", site / "photos" / "north"
    make(site, path, north, "--by-camera", "--camera", "gate")
    execute(["add", str(path), "--gallery", str(site / "photos" / "south"), "--camera", "yard"])
    rows = ["path,pid,camid,subset"]
    rows += [f"photos/north/{n}.png,{n},gate,gallery" for n in "123"]
    rows += [f"photos/south/{n}.png,{n},yard,gallery" for n in "abcd"]
    (site / "cameras.csv").write_text("".join(f"{row}\n" for row in rows))
    make(site, whole, site / "cameras.csv", "--by-camera")
    assert path.read_bytes() == whole.read_bytes()

    content, manifest = path.read_bytes(), str(site / "site.csv")
    wrong = [
        (
            "--camera is for an index by camera; .* add --by-camera",
            [str(north), "--camera", "gate"],
        ),
        ("is known without; leave it out", [manifest, "--by-camera", "--camera", "gate"]),
        (
            "give --camera, if one took all, a manifest, .* or leave --by",
            [str(north), "--by-camera"],
        ),
    ]
    for words, arguments in wrong:
        with pytest.raises(SearchError, match=words):
            make(site, path, *arguments)
        assert path.read_bytes() == content


def test_features_of_one_camera_need_no_list(tmp_path: Path) -> None:
    rows, _ = draw(30)
    listed, named_ = tmp_path / "listed.index", tmp_path / "named.index"
    options = write(tmp_path, "g", rows, ["gate"] * 30)
    index(listed, options)
    index(named_, [*options[:2], "--camera", "gate"])
    assert named_.read_bytes() == listed.read_bytes()
    with pytest.raises(SearchError, match="known without; leave it out"):
        index(named_, [*options, "--camera", "gate"])


def test_an_image_that_cannot_be_read_takes_its_camera_along(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Describer):
        def describe(self, paths: Sequence[str], skip_unreadable: bool = False) -> Any:
            features, faults = super().describe(paths, skip_unreadable)
            for row, path in enumerate(paths):
                if path.endswith("1_2.png"):
                    features[row], faults[row] = np.nan, "no image"
            return features, faults

    monkeypatch.setattr(index_command, "Describer", Failing)
    path, whole, manifest = site / "g.index", site / "whole.index", site / "site.csv"
    make(site, path, manifest, "--by-camera", "--skip-unreadable")
    shorter = manifest.read_text().replace("site/1_2.png,1,gate,gallery\n", "")
    (site / "shorter.csv").write_text(shorter)
    make(site, whole, site / "shorter.csv", "--by-camera")
    assert len(read_gallery(whole).names) == 29
    assert path.read_bytes() == whole.read_bytes()
