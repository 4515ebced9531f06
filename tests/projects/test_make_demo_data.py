"""The demo benchmark: repeatable, readable by all nine readers, never overwriting."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import make_demo_data
from demo_data.compose import render
from demo_data.domains import DOMAINS, Shot, plan
from demo_data.generate import MARKER, generate, is_complete, parameters, write_marker
from metabin_plugin.data.datasets import SOURCES, TARGETS

TINY = 0.03


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "data"
    generate(root, 5, TINY, 2, lambda line: None)
    return root


@pytest.mark.parametrize("dataset", SOURCES + TARGETS)
def test_readers_read_it(dataset, demo):
    loaded = dataset(root=str(demo))
    assert loaded.get_num_pids(loaded.train) >= 4
    for path, _, _ in loaded.train:
        with Image.open(path) as image:
            image.verify()
    if dataset in TARGETS:
        assert all(query and len(gallery) >= len(query) for query, gallery in loaded.splits)


def test_every_planned_image_is_drawn(demo):
    drawn = [path for path in demo.rglob("*") if path.is_file() and path.name != MARKER]
    shots = plan(5, TINY)
    assert len(drawn) == len(shots) == len({shot.path for shot in shots})


def test_junk_is_there_and_left_out(demo):
    names = {p.name[:4] for p in (demo / "Market-1501-v15.09.15/bounding_box_test").iterdir()}
    assert {"0000", "-1_c"} <= names
    market = next(dataset for dataset in SOURCES if dataset.__name__ == "DG_Market1501")
    assert {item[1] for item in market(root=str(demo)).train}.isdisjoint(
        {"market1501_0", "market1501_-1"}
    )


def test_pixels_depend_on_the_seed_only(demo):
    for shot in plan(5, TINY)[::40]:
        image, path = render(5, shot)
        if path.endswith(("png", "bmp")):
            with Image.open(demo / path) as stored:
                assert np.array_equal(np.asarray(stored), np.asarray(image))
        other, _ = render(6, shot)
        assert image.size != other.size or image.tobytes() != other.tobytes()


def test_native_sizes(demo):
    for name, folder in (("viper", "VIPeR"), ("prid", "prid_2011"), ("cuhk02", "cuhk02")):
        rows, aspect = DOMAINS[name].height[0], DOMAINS[name].aspect[0]
        for path in (p for p in (demo / folder).rglob("*") if p.is_file()):
            with Image.open(path) as image:
                assert image.size == (round(rows * aspect), rows)


def test_the_same_person_is_more_alike_than_another():
    """Mean colours of upper and lower body, one camera: same person against all others."""

    def describe(person: str, number: int) -> np.ndarray:
        image, _ = render(0, Shot("market1501", "x.jpg", person, 0, number))
        pixels = np.asarray(image.resize((8, 16)), float)
        return np.concatenate([pixels[3:8, 3:5].mean((0, 1)), pixels[9:13, 3:5].mean((0, 1))])

    people = 12
    views = [np.stack([describe(str(p), 1000 * k + p) for p in range(people)]) for k in range(2)]
    distances = np.linalg.norm(views[0][:, None] - views[1][None], axis=2)
    matched = float(np.diag(distances).mean())
    others = float(distances[~np.eye(people, dtype=bool)].mean())
    assert matched < 0.6 * others


def test_second_run_is_up_to_date(demo, capsys):
    before = digests(demo)
    arguments = ["--output", str(demo), "--seed", "5", "--scale", str(TINY)]
    assert make_demo_data.main(arguments) == 0
    assert "up to date" in capsys.readouterr().out
    assert digests(demo) == before


@pytest.mark.parametrize("changed", [["--seed", "6"], ["--scale", "0.5"]])
def test_other_parameters_are_refused(demo, capsys, changed):
    before = digests(demo)
    arguments = ["--output", str(demo), "--seed", "5", "--scale", str(TINY), *changed]
    assert make_demo_data.main(arguments) == 1
    assert str(demo) in capsys.readouterr().err
    assert digests(demo) == before


def test_foreign_folder_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert make_demo_data.main(["--output", str(tmp_path)]) == 1
    assert "delete it or choose another" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert make_demo_data.main(["--output", str(tmp_path / "file" / "demo")]) == 1
    assert "demo cannot be filled (Not a directory); choose another" in capsys.readouterr().err


def test_unfinished_folder_is_finished(tmp_path):
    made = parameters(0, 1.0)
    write_marker(tmp_path, made, complete=False)
    assert not is_complete(tmp_path, made)
    write_marker(tmp_path, made, complete=True)
    assert is_complete(tmp_path, made)


def test_a_folder_is_its_own_whenever_the_drawing_was_killed(tmp_path, monkeypatch):
    """Before the marker is written, and while it is written again."""
    made = parameters(0, 1.0)

    def killed(path, *_arguments, **_keywords):
        path.touch()
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "write_text", killed)
            write_marker(tmp_path, made, complete=True)
        assert not is_complete(tmp_path, made)
        write_marker(tmp_path, made, complete=False)


def test_target_proportions_follow_the_real_ones():
    shots = plan(0, 1.0)
    grid = [shot for shot in shots if shot.dataset == "grid"]
    assert sum("/0000_" in shot.path for shot in grid) == 3 * sum("/probe/" in s.path for s in grid)
    prid = [shot for shot in shots if shot.dataset == "prid"]
    assert sum("cam_b" in shot.path for shot in prid) > 1.5 * sum("cam_a" in s.path for s in prid)
    assert {shot.camera for shot in shots if shot.dataset == "market1501"} == set(range(6))
    assert {shot.camera for shot in shots if shot.dataset == "dukemtmc"} == set(range(8))
