"""tools/search.py end to end: index, query and bench."""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastreid.evaluation import inference_on_dataset
from PIL import Image

from benchmarks import search as bench
from benchmarks.report import to_json
from metabin_plugin.cli import index as index_command
from metabin_plugin.cli.main import execute
from metabin_plugin.engine import MetaBINTrainer, trained_network
from metabin_plugin.errors import ConfigError, DatasetError, MetaBINError, SearchError
from metabin_plugin.evaluation import RankingEvaluator
from metabin_plugin.search.features import Describer, restored_config
from metabin_plugin.search.index_file import read_gallery, write_gallery
from metabin_plugin.search.ranked_lists import GREEN, RED
from metabin_plugin.search.vectors import Parts
from tests.engine.tiny_data import CONFIGS, tiny_config, tiny_options
from tests.processes import run_script

FLIP = ["TEST.FLIP.ENABLED", "True"]


@dataclass(frozen=True)
class Trained:
    """A network, two checkpoints of it, and the options that find them."""

    folder: Path
    options: list[str]
    other: Path

    @property
    def images(self) -> Path:
        return self.folder / "target"

    def index(self, output: Path, gallery: object, *options: str) -> list[str]:
        config = ["--config-file", str(CONFIGS / "MetaBIN.yml")]
        where = ["--gallery", str(gallery), "--output", str(output)]
        return ["index", *config, *where, *options, *self.options]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("search")
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = MetaBINTrainer.build_model(tiny_config(folder))
        paths.append(folder / f"{seed}.pth")
        torch.save({"model": network.state_dict()}, paths[-1])
    options = [*tiny_options(folder), *FLIP, "MODEL.WEIGHTS", str(paths[0])]
    return Trained(folder, options, paths[1])


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_features_are_those_of_the_evaluation(trained: Trained) -> None:
    cfg = tiny_config(trained.folder, *FLIP, "MODEL.WEIGHTS", str(trained.folder / "0.pth"))
    network = trained_network(cfg, "")
    loader, num_query = MetaBINTrainer.build_test_loader(cfg, cfg.DATASETS.TESTS[0])
    seen: list[torch.Tensor] = []

    class Keeping(RankingEvaluator):
        def process(self, inputs: object, outputs: torch.Tensor) -> None:
            seen.append(outputs)
            super().process(inputs, outputs)

    inference_on_dataset(network, loader, Keeping(cfg, num_query), flip_test=True)
    features, faults = Describer(cfg).describe([item[0] for item in loader.dataset.img_items])
    np.testing.assert_array_equal(features, torch.cat(seen).numpy())
    assert faults == [""] * len(features) and len(features) > 8
    some, faults = Describer(cfg).describe(["absent.png", loader.dataset.img_items[0][0]], True)
    assert np.isnan(some[0]).all() and "absent.png does not exist" in faults[0]
    np.testing.assert_allclose(some[1], features[0], rtol=1e-4, atol=1e-5)
    assert not torch.equal(network.eval()(next(iter(loader))), seen[0])  # flipped, too


@pytest.mark.slow
def test_a_folder_is_indexed_and_asked(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "g.index"
    execute(trained.index(output, trained.images))
    assert "16 vectors of 512, flat (exact)" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["g.index"]

    queries = [trained.images / name for name in ("2_1.png", "0_3.png")]
    options = ["--top", 5, "--output", tmp_path / "found.csv"]
    done = run_script("tools/search.py", "query", output, *queries, *options)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "found.csv")
    assert [row["query"] for row in rows] == [str(q) for q in queries for _ in range(5)]
    assert [row["rank"] for row in rows] == list("12345") * 2

    names = sorted(path.name for path in trained.images.iterdir())
    cfg = tiny_config(trained.folder, *FLIP, "MODEL.WEIGHTS", str(trained.folder / "0.pth"))
    features, _ = Describer(cfg).describe([str(trained.images / name) for name in names])
    rows_of = F.normalize(torch.from_numpy(features).double())
    for query, found in zip(queries, (rows[:5], rows[5:]), strict=True):
        distances = 1 - rows_of @ rows_of[names.index(query.name)]
        nearest = distances.argsort()[:5].tolist()
        assert [row["path"] for row in found] == [str(trained.images / names[i]) for i in nearest]
        assert found[0]["path"] == str(query)
        expected = distances[nearest].tolist()
        assert [float(row["distance"]) for row in found] == pytest.approx(expected, abs=2e-6)
    with Image.open(tmp_path / "found.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 600


@pytest.mark.slow
def test_galleries_of_every_kind(trained: Trained, tmp_path: Path) -> None:
    manifest = trained.folder / "target.csv"
    for gallery, count in ((trained.images, 16), (manifest, 12)):
        execute(trained.index(tmp_path / "g.index", gallery, "--kind", "ivf", "--lists", "2"))
        read = read_gallery(tmp_path / "g.index")
        assert read.index.ntotal == len(read.names) == count and read.index.nlist == 2
        assert os.path.isfile(read.path(0))
    # The gallery may move, and queries may be a folder.
    shutil.copytree(trained.images, tmp_path / "moved")
    arguments = ["query", str(tmp_path / "g.index"), str(trained.images), "--probes", "2"]
    arguments += ["--gallery-folder", str(tmp_path / "moved"), "--output", str(tmp_path / "f.csv")]
    execute([*arguments, "--sheet", str(tmp_path / "s.png"), "--sheet-rows", "3"])
    rows = read_rows(tmp_path / "f.csv")
    assert len(rows) == 16 * 10
    assert all(row["path"].startswith(str(tmp_path / "moved")) for row in rows)


@pytest.mark.slow
def test_hostile_input_gets_a_sentence(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    shutil.copytree(trained.images, images)
    (images / "0_0.png").write_bytes(b"no image")
    (images / "1_0.png").write_bytes(b"")
    index = tmp_path / "g.index"
    # The second of a batch: what stands in for it must have all that the first one has.
    (images / "0_1.png").write_bytes(b"no image")
    with pytest.raises(SearchError, match=r"0_0\.png is not an image.*; or .*--skip-unreadable"):
        execute(trained.index(index, images))
    assert not index.exists()
    (images / "0_0.png").unlink()
    with pytest.raises(SearchError, match=r"0_1\.png is not an image"):
        execute(trained.index(index, images))
    (images / "3.HEIC").write_bytes(b"no image")
    execute(trained.index(index, images, "--skip-unreadable"))
    said = capsys.readouterr().err
    assert "left out: Image" in said and "0_1.png is not an image" in said
    assert "1_0.png is empty" in said
    assert "1 photographs that Pillow does not read; convert them to JPEG (3.HEIC)" in said
    gallery = read_gallery(index)
    left_out = {"0_1.png", "1_0.png", "3.HEIC"}
    assert set(gallery.names) == {p.name for p in images.iterdir()} - left_out

    (tmp_path / "empty").mkdir()
    asked = ["query", str(index), "--output", str(tmp_path / "f.csv")]
    good = str(images / "2_0.png")
    wrong: list[tuple[type[MetaBINError], str, Sequence[str]]] = [
        (SearchError, "holds no image", trained.index(index, tmp_path / "empty")),
        (DatasetError, "no_such_set", trained.index(index, "no_such_set")),
        (ConfigError, "MODEL.WEIGHTS is empty", [*trained.index(index, images)[:-1], ""]),
        (SearchError, "no use for it", trained.index(index, images, "--lists", "2")),
        (SearchError, "sees no GPU", trained.index(index, images, "--gpu")),
        (SearchError, "no image or folder", [*asked, str(images / "absent.png")]),
        (DatasetError, "is not an image", [*asked, str(images / "0_1.png")]),
        (SearchError, "holds no image", [*asked, str(tmp_path / "empty")]),
        (SearchError, "not the path of a table", [*asked[:-1], str(tmp_path / "f.png"), good]),
        (SearchError, "--top is 0", [*asked, good, "--top", "0"]),
        (SearchError, "no lists, being flat", [*asked, good, "--probes", "2"]),
        (SearchError, "features of other weights", [*asked, good, "--opts", *_other(trained)]),
        (
            SearchError,
            "or of another INPUT",
            [*asked, good, "--opts", "INPUT.SIZE_TEST", "[64,32]"],
        ),
        (ConfigError, "NO.KEY", [*asked, good, "--opts", "NO.KEY", "1"]),
        (ConfigError, "is not there any more", [*asked, good, "--opts", "MODEL.WEIGHTS", "gone"]),
    ]
    for kind, words, arguments in wrong:
        with pytest.raises(kind, match=words):
            execute(arguments)
    assert not (tmp_path / "f.csv").exists()


def _other(trained: Trained) -> list[str]:
    return ["MODEL.WEIGHTS", str(trained.other)]


@pytest.mark.slow
def test_a_stopped_index_goes_on(
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index_command, "Parts", functools.partial(Parts, size=6))
    arguments = trained.index(tmp_path / "g.index", trained.images)
    describe = Describer.describe
    described: list[str] = []

    def stopping(self: Describer, paths: Sequence[str], skip: bool) -> Any:
        if described and not goes_on:
            os.kill(os.getpid(), signal.SIGTERM)
        described.extend(paths)
        return describe(self, paths, skip)

    goes_on = False
    monkeypatch.setattr(Describer, "describe", stopping)
    with pytest.raises(SystemExit) as stopped:
        execute(arguments)
    assert stopped.value.code == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "stopped; features of 6 of 16 images are in" in said
    assert "the same command goes on from there" in said
    assert [path.name for path in tmp_path.iterdir()] == ["g.index.parts"]

    # As a process leaves it that is killed while it writes.
    (part,) = (tmp_path / "g.index.parts").glob("*.npy")
    part.with_name(f"{part.name}.0123abcd.partial").touch()
    goes_on = True
    execute(arguments)
    assert described == [str(path) for path in sorted(trained.images.iterdir())]
    assert [path.name for path in tmp_path.iterdir()] == ["g.index"]
    execute(trained.index(tmp_path / "straight.index", trained.images))
    resumed, straight = (
        read_gallery(tmp_path / name).index.reconstruct_n(0, 16)
        for name in ("g.index", "straight.index")
    )
    np.testing.assert_array_equal(resumed, straight)


def test_ready_features_are_indexed_and_asked(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    gallery, queries = random.normal(size=(50, 6)), random.normal(size=(3, 6))
    np.save(tmp_path / "g.npy", gallery)
    np.save(tmp_path / "q.npy", queries)
    (tmp_path / "ids.txt").write_text("\n".join(f"item {n}" for n in range(50)) + "\n")
    index, found = tmp_path / "g.index", tmp_path / "f.csv"
    base = ["index", "--features", str(tmp_path / "g.npy"), "--output", str(index)]
    execute([*base, "--ids", str(tmp_path / "ids.txt"), "--metric", "euclidean"])
    ask = ["query", str(index), str(tmp_path / "q.npy"), "--output", str(found)]
    execute([*ask, "--top", "4"])
    rows = read_rows(found)
    distances = ((queries[:, None] - gallery) ** 2).sum(-1)
    order = np.argsort(distances, 1)[:, :4]
    assert [row["path"] for row in rows] == [f"item {n}" for n in order.ravel()]
    expected = np.take_along_axis(distances, order, 1).ravel().tolist()
    assert [float(row["distance"]) for row in rows] == pytest.approx(expected, rel=1e-4)
    # There is no image to draw.
    assert not found.with_suffix(".png").exists()


def test_beyond_the_threshold_there_is_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = np.array([[0.0, 0], [0, 1], [0, 3], [9, 9]])
    np.save(tmp_path / "g.npy", gallery)
    np.save(tmp_path / "q.npy", np.array([[0.0, 0], [5, 5], [0, 4]]))
    index, found = tmp_path / "g.index", tmp_path / "f.csv"
    base = ["index", "--features", str(tmp_path / "g.npy"), "--output", str(index)]
    execute([*base, "--metric", "euclidean"])
    ask = ["query", str(index), str(tmp_path / "q.npy"), "--output", str(found), "--top", "2"]

    def decisions(*options: str) -> list[str]:
        execute([*ask, *options])
        return [row["decision"] for row in read_rows(found)]

    assert decisions() == [""] * 6
    assert "nobody" not in capsys.readouterr().out
    # Squared distances 0 and 1, 29 and 32, 1 and 9.
    beside = ["match", "too far", "nobody", "nobody", "nobody", "nobody"]
    assert decisions("--threshold", "1") == beside
    said = capsys.readouterr().out
    assert "1: nobody (nearest at 29.000000)\n2: nobody (nearest at 1.000000)\n" in said
    assert "2 of 3 queries are nobody by the threshold 1.000000" in said
    read = read_gallery(index)
    write_gallery(index, replace(read, header=replace(read.header, threshold=1.5)))
    assert decisions() == ["match", "match", "nobody", "nobody", "match", "too far"]
    assert decisions("--threshold", "inf") == ["match"] * 6
    assert decisions("--threshold", "-1", "--sheet-rows", "1") == ["nobody"] * 6
    assert "0: nobody (nearest at 0.000000)\nand 2 more\n3 of 3" in capsys.readouterr().out
    with pytest.raises(SearchError, match="--threshold is nan"):
        decisions("--threshold", "nan")
    with pytest.raises(SearchError, match="made of features, without a network; give its thresh"):
        execute(["threshold", "--index", str(index), "--dataset", "x.csv"])


def test_what_ready_features_have_no_use_for_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", np.eye(3))
    index, found, features = tmp_path / "g.index", tmp_path / "f.csv", str(tmp_path / "g.npy")
    execute(["index", "--features", features, "--output", str(index)])
    ask = ["query", str(index), "--output", str(found)]
    wrong = [
        (r"without a network; ask by one \.npy file, alone$", [features, features]),
        (r"--output \. is a folder", [features, "--output", "."]),
        ("--output / is a folder", [features, "--output", "/"]),
        ("--opts are of a network, .* leave them out", [features, "--opts", "TEST.METRIC", "x"]),
        ("--sheet .*f.jpg is not the path of a contact sheet; give one ending in .png",
         [features, "--sheet", str(tmp_path / "f.jpg")]),
    ]  # fmt: skip
    for words, arguments in wrong:
        with pytest.raises(SearchError, match=words):
            execute([*ask, *arguments])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.index", "g.npy"]
    for suffix in (".xlsx", ".txt", ".npy"):
        with pytest.raises(
            SearchError, match=rf"{suffix} is not the path of a table; give one ending"
        ):
            execute(["query", str(index), features, "--output", str(found.with_suffix(suffix))])
    execute(["query", str(index), features, "--output", str(found.with_suffix(".JSON"))])
    assert json.loads(found.with_suffix(".JSON").read_text())["index"] == str(index)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_images_of_one_person_are_as_far_as_they_are_in_the_mean(
    tmp_path: Path, metric: str
) -> None:
    random = np.random.default_rng(4)
    gallery, images = random.normal(size=(40, 5)), random.normal(size=(3, 5)) + 1
    images *= [[0.2], [1], [5]]
    np.save(tmp_path / "g.npy", gallery)
    np.save(tmp_path / "q.npy", images)
    index, found = tmp_path / "g.index", tmp_path / "f.json"
    base = ["index", "--features", str(tmp_path / "g.npy"), "--output", str(index)]
    execute([*base, "--metric", metric])
    if metric == "euclidean":
        each = ((images[:, None] - gallery) ** 2).sum(2)
    else:
        lengths = np.linalg.norm(images, axis=1)[:, None] * np.linalg.norm(gallery, axis=1)
        each = 1 - images @ gallery.T / lengths
    distances = each.mean(0)
    order = np.argsort(distances)[:6]
    middle = float(distances[order[2:4]].mean())
    ask = ["query", str(index), str(tmp_path / "q.npy"), "--one-person", "--top", "6"]
    execute([*ask, "--output", str(found), "--threshold", str(middle)])
    said = json.loads(found.read_text())
    (asked,) = said["queries"]
    assert (said["index"], said["metric"]) == (str(index), metric)
    assert said["threshold"] == middle
    assert (asked["query"], asked["images"]) == (str(tmp_path / "q.npy"), [])
    assert [entry["path"] for entry in asked["found"]] == [str(row) for row in order]
    assert [entry["rank"] for entry in asked["found"]] == [1, 2, 3, 4, 5, 6]
    decisions = [entry["decision"] for entry in asked["found"]]
    assert decisions == ["match"] * 3 + ["too far"] * 3
    far = [entry["distance"] for entry in asked["found"]]
    assert far == pytest.approx(distances[order].tolist(), rel=1e-4, abs=1e-6)


def test_json_has_no_infinite_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", np.eye(3))
    index, found = tmp_path / "g.index", tmp_path / "f.json"
    execute(["index", "--features", str(tmp_path / "g.npy"), "--output", str(index)])
    ask = ["query", str(index), str(tmp_path / "g.npy"), "--top", "1", "--output", str(found)]
    for options, decision in ((["--threshold", "inf"], "match"), ([], None)):
        execute([*ask, *options])
        said = json.loads(found.read_text(), parse_constant=pytest.fail)
        assert said["threshold"] is None
        assert [one["found"][0]["path"] for one in said["queries"]] == ["0", "1", "2"]
        assert {one["found"][0]["decision"] for one in said["queries"]} == {decision}


def test_a_line_on_the_sheet_is_the_threshold(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (4, 8), "blue").save(tmp_path / f"{name}.png")
    index, found = tmp_path / "g.index", tmp_path / "f.csv"
    np.save(tmp_path / "g.npy", np.array([[0.0, 0], [0, 1], [0, 3]]))
    np.save(tmp_path / "q.npy", np.array([[0.0, 0], [9, 9], [0, 2]]))
    base = ["index", "--features", str(tmp_path / "g.npy"), "--output", str(index)]
    execute([*base, "--metric", "euclidean"])
    read = read_gallery(index)
    header = replace(read.header, folder=str(tmp_path))
    write_gallery(index, replace(read, header=header, names=["a.png", "b.png", "c.png"]))

    def lines(*options: str) -> list[int]:
        """How far from the left each row's line is."""
        execute(["query", str(index), str(tmp_path / "q.npy"), "--output", str(found), *options])
        with Image.open(found.with_suffix(".png")) as sheet:
            red = (np.asarray(sheet) == RED).all(2)
        rows = np.array_split(red, 3)
        return [int(np.flatnonzero(row.any(0)).mean()) if row.any() else 0 for row in rows]

    assert lines() == [0, 0, 0]
    # Squared distances 0, 1 and 9; far; 1, 1 and 4.
    one, two, three = lines("--threshold", "2")
    assert 0 < two < one == three
    first, *others = lines("--threshold", "0.5")
    assert others == [two, two] and two < first < one
    assert lines("--threshold", "5") == [one, two, 0]


@pytest.mark.slow
def test_several_images_of_a_person_are_one_query(trained: Trained, tmp_path: Path) -> None:
    index, found = tmp_path / "g.index", tmp_path / "f.csv"
    execute(trained.index(index, trained.images))
    images = [str(trained.images / name) for name in ("2_0.png", "2_1.png")]
    execute(["query", str(index), *images, "--output", str(found), "--top", "16"])
    alone = read_rows(found)
    execute(["query", str(index), *images, "--one-person", "--output", str(found), "--top", "16"])
    together = read_rows(found)
    assert [row["query"] for row in together] == [" ".join(images)] * 16
    for row in together:
        each = [float(other["distance"]) for other in alone if other["path"] == row["path"]]
        assert float(row["distance"]) == pytest.approx(sum(each) / 2, abs=2e-6)
    with Image.open(found.with_suffix(".png")) as sheet:
        assert sheet.height < 300


@pytest.mark.slow
def test_a_threshold_is_found_kept_and_used(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, manifest = tmp_path / "g.index", str(trained.folder / "target.csv")
    execute(trained.index(index, trained.images))
    before = read_gallery(index)
    find = ["threshold", "--index", str(index), "--dataset", manifest]
    rate = ["--false-match-rate", "0.2"]
    capsys.readouterr()
    execute([*find, *rate, "--resamplings", "50"])
    said = capsys.readouterr().out

    # Four people: a query of each, and three gallery images of each.
    cfg = tiny_config(trained.folder, *FLIP, "MODEL.WEIGHTS", str(trained.folder / "0.pth"))
    names = [f"{person}_{image}.png" for person in range(4) for image in range(4)]
    features, _ = Describer(cfg).describe([str(trained.images / name) for name in names])
    rows = F.normalize(torch.from_numpy(features).double()).reshape(4, 4, -1)
    distances = 1 - torch.einsum("pd,qid->pqi", rows[:, 0], rows[:, 1:])
    different = distances[~torch.eye(4, dtype=torch.bool)].flatten().sort().values
    assert len(different) == 36
    header = read_gallery(index).header
    assert header.threshold == pytest.approx(float(different[7]), abs=1e-6)
    assert header.calibration in said and "50 resamplings of 4 people" in said
    assert "7 of 36 comparisons of different people are nearer" in said
    assert replace(header, threshold=None, calibration="") == before.header
    assert "is expected to be taken for 3.2 of them" in said
    execute([*find, *rate, "--resamplings", "50"])
    assert read_gallery(index).header == header

    found = tmp_path / "found.csv"
    execute(["query", str(index), str(trained.images), "--output", str(found), "--top", "16"])
    asked = read_rows(found)
    # The distance that the threshold was taken from is among them, rounded otherwise.
    far = [row for row in asked if abs(float(row["distance"]) - header.threshold) > 1e-5]
    assert len(far) >= len(asked) - 2
    near = [float(row["distance"]) < header.threshold for row in far]
    assert [row["decision"] == "match" for row in far] == near
    assert {row["decision"] for row in far} == {"match", "too far"}
    with Image.open(found.with_suffix(".png")) as sheet:
        # The frames of the matches.
        assert sheet.getcolors(2**24) and GREEN in {c for _, c in sheet.getcolors(2**24)}

    content = index.read_bytes()
    wrong: list[tuple[type[MetaBINError], str, list[str]]] = [
        (SearchError, "has not one comparison of diff", [*find, "--false-match-rate", "0.02"]),
        (SearchError, "--false-match-rate is 1.0; give a nu", [*find, "--false-match-rate", "1"]),
        (SearchError, "--false-match-rate is nan", [*find, "--false-match-rate", "nan"]),
        (SearchError, "--resamplings is 0", [*find, *rate, "--resamplings", "0"]),
        (DatasetError, "no_such_set", [*find[:-1], "no_such_set"]),
        (DatasetError, "has no query images", [*find[:-1], str(trained.folder / "source0.csv")]),
        (SearchError, "features of other weights", [*find, *rate, "--opts", *_other(trained)]),
    ]
    for kind, words, arguments in wrong:
        with pytest.raises(kind, match=words):
            execute(arguments)
    assert index.read_bytes() == content


def test_features_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", np.eye(5))
    np.save(tmp_path / "q.npy", np.eye(4))
    (tmp_path / "ids.txt").write_text("one\ntwo\n")
    index = tmp_path / "g.index"
    base = ["index", "--features", str(tmp_path / "g.npy"), "--output", str(index)]
    execute(base)
    ask = ["query", str(index), "--output", str(tmp_path / "f.csv")]
    Image.new("RGB", (4, 8)).save(tmp_path / "image.png")
    wrong = [
        ("of 4 values and the index of 5", [*ask, str(tmp_path / "q.npy")]),
        ("without a network; ask by one .npy file", [*ask, str(tmp_path / "image.png")]),
        ("has 2 lines for 5 features", [*base, "--ids", str(tmp_path / "ids.txt")]),
        ("come without a network", [*base, "MODEL.WEIGHTS", "x.pth"]),
        ("is no index of this tool", ["query", str(tmp_path / "ids.txt"), "x.png"]),
    ]
    (tmp_path / "x.png").write_bytes((tmp_path / "image.png").read_bytes())
    os.mkfifo(tmp_path / "pipe")
    pipe = str(tmp_path / "pipe")
    wrong += [
        ("Not a regular file", [*base, "--ids", pipe]),
        ("Not a regular file", ["query", pipe, "x.png"]),
        ("Not a regular file", ["index", "--features", pipe, "--output", str(index)]),
        ("no image or folder", [*ask, pipe]),
    ]
    for words, arguments in wrong:
        with pytest.raises(SearchError, match=words):
            execute(arguments)


def test_gpus_train_add_and_answer_where_faiss_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    calls: list[str] = []
    for name, count in (("index_cpu_to_all_gpus", 2), ("index_gpu_to_cpu", 1)):
        assert count
        monkeypatch.setattr(
            faiss, name, lambda index, name=name: calls.append(name) or index, raising=False
        )
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    np.save(tmp_path / "g.npy", np.eye(5))
    index = str(tmp_path / "g.index")
    execute(["index", "--features", str(tmp_path / "g.npy"), "--output", index, "--gpu"])
    ask = ["query", index, str(tmp_path / "g.npy"), "--gpu"]
    execute([*ask, "--output", str(tmp_path / "f.csv"), "--top", "1"])
    assert calls == ["index_cpu_to_all_gpus", "index_gpu_to_cpu", "index_cpu_to_all_gpus"]
    assert [row["path"] for row in read_rows(tmp_path / "f.csv")] == list("01234")


def test_the_config_of_an_index_runs_no_code(tmp_path: Path) -> None:
    code = f"!!python/object/apply:os.mkdir ['{tmp_path}/run']"
    bomb = "\n".join(f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))
    for text in (
        *(f"OUTPUT_DIR: {code}", "[1, 2]", "NO: {SUCH: key}", "MODEL: [", "3"),
        *(f"k0: &a0 [1]\n{bomb}", "&a {MODEL: *a}", "[" * 99_999, "a: [" + "1," * 200_000 + "]"),
        *("SOLVER: {MAX_EPOCH: 0x" + "f" * 9999 + "}", "SOLVER: {MAX_EPOCH: ~}", "1: 2"),
    ):
        with pytest.raises(SearchError, match="another version of the config"):
            restored_config(text, [])
    assert not list(tmp_path.iterdir())


def test_an_index_starts_no_crowd_of_processes(tmp_path: Path) -> None:
    (tmp_path / "x.pth").touch()
    text = f"DATALOADER: {{NUM_WORKERS: 100000}}\nMODEL: {{WEIGHTS: {tmp_path}/x.pth}}"
    assert restored_config(text, []).DATALOADER.NUM_WORKERS == 8
    options = ["DATALOADER.NUM_WORKERS", "12"]
    assert restored_config(text, options).DATALOADER.NUM_WORKERS == 12


def test_recall_is_the_share_of_exact_neighbours() -> None:
    exact = np.array([[0, 1, 2, 3], [4, 5, 6, 7]])
    assert bench.recall(exact[:, ::-1], exact) == 1
    assert bench.recall(np.array([[0, 9, 8, -1], [7, 6, 5, 4]]), exact) == 5 / 8


def test_the_bench_measures_every_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def here(function: Callable[..., Any], *args: Any) -> tuple[Any, int]:
        return function(*args), 2**27

    monkeypatch.setattr(bench, "measure_apart", here)
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    size = ["--vectors", "3000", "--dimension", "32", "--queries", "50"]
    report = bench.run(parser.parse_args(size))
    flat, ivf, coded = json.loads(to_json(report, "search", "this machine"))["indexes"]
    assert flat["plan"] == "flat (exact)" and coded["plan"].startswith("ivf-pq")
    assert [setting["recall"] for setting in flat["settings"]] == [1]
    recalls = [setting["recall"] for setting in ivf["settings"]]
    assert recalls == sorted(recalls) and 0.8 < recalls[-1] <= 1
    # 3000 vectors of 32 floats, or of 4 bytes, and what the others have beside them.
    assert flat["index_bytes"] == 384_000 < ivf["index_bytes"]
    assert coded["index_bytes"] < flat["index_bytes"] / 3
    said = report.text()
    for words in ("recall@10", "3,000 vectors of 32, 50 queries", "One person for 10 vectors"):
        assert words in said
    with pytest.raises(SearchError, match="--queries is 0"):
        bench.run(parser.parse_args(["--queries", "0"]))


def test_the_drawn_vectors_are_clusters_in_a_subspace(tmp_path: Path) -> None:
    files = bench.draw_vectors(tmp_path, 2000, 256, 10)
    gallery, queries = map(np.load, files)
    assert gallery.shape == (2000, 256) and queries.shape == (10, 256)
    # A person's unit vector, and noise of length 0.6.
    assert (gallery**2).sum(1).mean() == pytest.approx(1 + bench.NOISE**2, rel=0.02)
    spectrum = np.linalg.svd(gallery, compute_uv=False) ** 2
    # All of the persons' variance and a quarter of the noise's.
    share = (1 + bench.NOISE**2 * bench.SUBSPACE / 256) / (1 + bench.NOISE**2)
    assert spectrum[: bench.SUBSPACE].sum() / spectrum.sum() == pytest.approx(share, rel=0.05)
    nearest = np.sort(gallery @ gallery[0])[::-1]
    assert nearest[1] > 0.8 and nearest[100] < 0.6
    again = np.load(bench.draw_vectors(tmp_path, 2000, 256, 10)[0])
    np.testing.assert_array_equal(again, gallery)
