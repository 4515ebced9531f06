"""Images of a gallery, features that are kept in parts, contact sheets, and stopping."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metabin_plugin.cli.main import execute
from metabin_plugin.cli.query import caption_lines
from metabin_plugin.errors import DatasetError, SearchError
from metabin_plugin.files import check_file
from metabin_plugin.search import vectors
from metabin_plugin.search.features import find_gallery, find_images, find_queries
from metabin_plugin.search.index_file import read_gallery
from metabin_plugin.search.ranked_lists import (
    FRAME,
    GAP,
    GREEN,
    IMAGE,
    RED,
    Tile,
    draw_sheet,
    shortened,
)
from metabin_plugin.search.vectors import Parts
from metabin_plugin.text import csv_file, from_cell
from tests.engine.tiny_data import write_manifest

TOOLS = Path(__file__).parents[2] / "tools"


def write_images(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8), "blue").save(folder / name, format="PNG")
    return [str(folder / name) for name in names]


def test_images_of_a_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "b/2.jpg", "a.PNG", "b/c/1.webp", "b/.hidden.png", ".h/x.png", "d.bmp")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "paper.pdf").write_text("")
    assert find_images(str(tmp_path)) == ["a.PNG", "b/2.jpg", "b/c/1.webp", "d.bmp"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SearchError, match="holds no image"):
        find_images(str(tmp_path / "empty"))


def test_queries_are_files_and_folders(tmp_path: Path) -> None:
    one, *others = write_images(tmp_path, "one.png", "more/2.png", "more/1.png")
    assert find_queries([one, str(tmp_path / "more")]) == ([one, *sorted(others)], [""] * 3)
    with pytest.raises(SearchError, match=r"no image or folder .*absent.png"):
        find_queries([one, str(tmp_path / "absent.png")])


def test_a_manifest_gives_its_gallery_or_all(tmp_path: Path) -> None:
    target = write_manifest(tmp_path, "target", 0, identities=3, images=2, subset="test")
    folder, names, _ = find_gallery(str(target))
    assert folder == str(tmp_path / "target") and names == ["0_1.png", "1_1.png", "2_1.png"]
    source = write_manifest(tmp_path, "source", 0, identities=3, images=2)
    folder, names, _ = find_gallery(str(source))
    assert len(names) == 6 and all(os.path.isfile(os.path.join(folder, name)) for name in names)


def test_a_manifest_in_a_linked_folder_gives_its_gallery(tmp_path: Path) -> None:
    write_images(tmp_path / "disk" / "photos", "a/1.png", "b/2.png")
    (tmp_path / "disk" / "very" / "deep").mkdir(parents=True)
    manifest = tmp_path / "disk" / "very" / "deep" / "own.csv"
    manifest.write_text("path,pid,camid\n../../photos/a/1.png,a,1\n../../photos/b/2.png,-1,1\n")
    (tmp_path / "out").symlink_to(manifest.parent)
    # What is not a person is no answer to anybody's question.
    assert find_gallery(str(tmp_path / "out" / "own.csv")) == (
        str(tmp_path / "disk" / "photos" / "a"),
        ["1.png"],
        ["1"],
    )


def test_a_gallery_on_several_drives_has_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_manifest(tmp_path, "target", 0, identities=3, images=2)
    folder, names, cameras = find_gallery(str(target))

    def refuse(paths: object) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr("metabin_plugin.search.features.os.path.commonpath", refuse)
    paths = [os.path.join(folder, name) for name in names]
    assert find_gallery(str(target)) == (folder, paths, cameras)


def test_a_gallery_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="--gallery lists"):
        find_gallery(str(tmp_path / "absent"))
    with pytest.raises(DatasetError, match=r"absent\.csv"):
        find_gallery("absent.csv")


class Describer:
    """Features that tell which image they are of; counts what it was asked for."""

    def __init__(self, stop_before: str = "") -> None:
        self.asked: list[str] = []
        self.stop_before = stop_before

    def __call__(self, paths: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        if self.stop_before in paths:
            raise KeyboardInterrupt
        self.asked += paths
        faults = ["unreadable" if "bad" in path else "" for path in paths]
        return np.array([[hash(path) % 1000, 1] for path in paths], np.float32), faults


def rows_of(parts: Parts) -> list[int]:
    return [int(row[0]) for block in parts.vectors().blocks() for row in block]


def test_a_stopped_gallery_goes_on_where_it_was(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", *(f"{number}.png" for number in range(10)))
    output = tmp_path / "g.index"
    first = Describer(stop_before=paths[7])
    with pytest.raises(KeyboardInterrupt):
        Parts(output, paths, ["network"], size=3).complete(first)
    parts = Parts(output, paths, ["network"], size=3)
    assert (parts.done, parts.total) == (6, 10)
    second = Describer()
    assert parts.complete(second) == [""] * 10
    assert first.asked + second.asked == paths
    assert rows_of(parts) == [hash(path) % 1000 for path in paths]
    parts.remove()
    assert not parts.folder.exists()


def test_parts_of_other_images_or_networks_are_not_used(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", "1.png", "2.png")
    output = tmp_path / "g.index"
    Parts(output, paths, ["network"]).complete(Describer())
    assert Parts(output, paths, ["network"]).done == 2
    assert Parts(output, paths, ["other network"]).done == 0
    Parts(output, paths, ["network"]).complete(Describer())
    assert Parts(output, paths[:1], ["network"]).done == 0
    Parts(output, paths, ["network"]).complete(Describer())
    Image.new("RGB", (5, 9)).save(paths[0])
    assert Parts(output, paths, ["network"]).done == 0
    assert not list((tmp_path / "g.index.parts").iterdir())


def test_an_image_that_was_mended_costs_its_own_part(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", "1.png", "2.png", "3.png")
    output = tmp_path / "g.index"
    Parts(output, paths, [], size=1).complete(Describer())
    Image.new("RGB", (5, 9)).save(paths[1])
    parts = Parts(output, paths, [], size=1)
    assert parts.done == 2
    again = Describer()
    parts.complete(again)
    assert again.asked == paths[1:2]


@pytest.mark.parametrize(
    "name", ["thesis.tex", "000000.npy", "000000-0123456789abcdef.npy.bak", ".git", "sub"]
)
def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path, name: str) -> None:
    paths = write_images(tmp_path / "images", "1.png")
    folder = tmp_path / "g.index.parts"
    folder.mkdir()
    if name == "sub":
        (folder / name).mkdir()
    else:
        (folder / name).write_text("mine")
    former = folder / "000000-0123456789abcdef.npy"
    former.write_text("of another network")
    with pytest.raises(SearchError, match=r"holds .*, which `index` did not make; move it away"):
        Parts(tmp_path / "g.index", paths, [])
    assert sorted(folder.iterdir()) == sorted([folder / name, former])


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    former = tmp_path / "other" / "000000-0123456789abcdef.npy"
    former.write_text("of another gallery")
    (tmp_path / "g.index.parts").symlink_to("other")
    with pytest.raises(SearchError, match=r"parts is a link, which `index` did not make"):
        Parts(tmp_path / "g.index", ["1.png"], [])
    assert former.read_text() == "of another gallery"


def test_what_is_put_beside_the_parts_stays(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "g.index", ["1", "2", "3"], [], size=2)
    parts.complete(Describer())
    (parts.folder / "notes.txt").write_text("mine")
    parts.remove()
    assert [path.name for path in parts.folder.iterdir()] == ["notes.txt"]


def test_unreadable_images_have_no_features(tmp_path: Path) -> None:
    paths = ["1", "bad 2", "3", "bad 4", "bad 5", "bad 6", "7"]
    parts = Parts(tmp_path / "g.index", paths, [], size=2)
    faults = parts.complete(Describer())
    assert [path for path, fault in zip(paths, faults, strict=True) if not fault] == ["1", "3", "7"]
    assert rows_of(parts) == [hash(path) % 1000 for path in ("1", "3", "7")]
    parts = Parts(tmp_path / "h.index", ["bad 1", "bad 2"], [])
    parts.complete(Describer())
    with pytest.raises(SearchError, match="none of 2 images"):
        parts.vectors()


def test_a_sheet_has_its_images_in_their_places(tmp_path: Path) -> None:
    colours = ["red", "lime", "blue"]
    for colour in colours:
        Image.new("RGB", (10, 20), colour).save(tmp_path / f"{colour}.png")
    red, lime, blue = (str(tmp_path / f"{colour}.png") for colour in colours)
    rows = [
        [Tile(red, ["query"]), Tile(lime, ["1"], GREEN), Tile(blue, ["2"], RED)],
        [Tile(blue, ["query"]), Tile(str(tmp_path / "absent.png"), ["1"], RED)],
    ]
    sheet = draw_sheet(rows)
    width, height = IMAGE[0] + 2 * FRAME + GAP, sheet.height // 2

    def pixel(row: int, column: int, x: int, y: int) -> tuple[int, ...]:
        found = sheet.getpixel(
            (GAP + column * width + (2 * GAP if column else 0) + x, GAP + row * height + y)
        )
        assert isinstance(found, tuple)
        return found

    inside = (FRAME + 5, FRAME + 5)
    assert pixel(0, 0, *inside) == (255, 0, 0)
    assert pixel(0, 1, *inside) == (0, 255, 0) and pixel(0, 1, 1, 1) == GREEN
    assert pixel(0, 2, *inside) == (0, 0, 255) and pixel(0, 2, 1, 1) == RED
    assert pixel(1, 0, *inside) == (0, 0, 255)
    assert pixel(1, 1, *inside) == (230, 230, 230) and pixel(1, 1, 1, 1) == RED
    # A caption under each image, and nothing in the empty place.
    captions = np.asarray(sheet)[GAP + IMAGE[1] + 2 * FRAME : height - 1]
    assert all((captions[:, GAP + c * width :][:, : width // 2] < 128).any() for c in range(3))
    assert np.asarray(sheet)[height + GAP :, GAP + 2 * width + 2 * GAP :].min() == 255


def test_a_line_stands_where_a_row_is_cut() -> None:
    rows = [[Tile(""), Tile(""), Tile("")]] * 4
    sheet = np.asarray(draw_sheet(rows, [2, 1, None, 2]))
    plain = np.asarray(draw_sheet(rows))
    width, height = IMAGE[0] + 2 * FRAME + GAP, IMAGE[1] + 2 * FRAME + GAP
    changed = (sheet != plain).any(2)
    for row, edge in enumerate([2 * width + 3 * GAP, width + 3 * GAP, None, 2 * width + 3 * GAP]):
        columns = np.flatnonzero(changed[GAP + row * height :][: height - GAP].all(0))
        # Between the frames, whose edges it does not touch.
        assert len(columns) == (0 if edge is None else 2)
        assert edge is None or ((columns > edge - GAP) & (columns < edge - 1)).all()
    assert (sheet[changed] == RED).all() and changed.sum() <= 3 * 2 * height


def test_a_pipe_in_the_place_of_an_image_is_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    sheet = draw_sheet([[Tile(str(tmp_path / "pipe.png"), ["query"])]])
    assert sheet.getpixel((GAP + FRAME + 5, GAP + FRAME + 5)) == (230, 230, 230)


def test_captions_say_in_which_folders_an_image_is() -> None:
    assert caption_lines("yard/person 7/1.jpg") == ["yard/person 7", "1.jpg"]
    assert caption_lines("1.jpg") == ["1.jpg"]


def test_long_captions_keep_their_ends() -> None:
    assert shortened("short", 5) == "short"
    assert shortened("0123456789abcdef.jpg", 10) == "012…ef.jpg"
    assert shortened("a\nb\udcff", 20) == r"a\nb\udcff"


def test_tables_hold_any_path() -> None:
    lines = csv_file(["path"], [["a,b.png"], ["ü.png"], ["\udcff.png"]], "").split(b"\n")
    assert lines[1:4] == [b'"a,b.png"', "ü.png".encode(), b"\xff.png"]


def test_names_in_a_table_are_no_formulas(tmp_path: Path) -> None:
    names = ["=HYPERLINK(0)", "+1", "-1", "@SUM(1)", "\t=1", "'=1", "a=1"]
    content = csv_file(["path", "distance"], [[name, -0.25] for name in names], ".6f")
    (tmp_path / "t.csv").write_bytes(content)
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [cell for cell, _ in rows] == [f"'{name}" for name in names[:-1]] + names[-1:]
    assert [from_cell(cell) for cell, _ in rows] == names
    # A number stays one.
    assert {distance for _, distance in rows} == {"-0.250000"}


# As editors and spreadsheets write a list.
ENDINGS = {"marked": b"\xef\xbb\xbf%s", "by Windows": b"\xef\xbb\xbf%s\r\n", "ended": b"%s\n"}


@pytest.mark.parametrize("how", ENDINGS)
def test_lists_of_any_editor_are_the_same_lists(tmp_path: Path, how: str) -> None:
    np.save(tmp_path / "g.npy", np.random.default_rng(0).normal(size=(6, 3)))
    plain, other = tmp_path / "plain.index", tmp_path / "other.index"

    def write(name: str, lines: list[str], form: bytes) -> str:
        end = b"\r\n" if b"\r" in form else b"\n"
        (tmp_path / name).write_bytes(form.replace(b"%s", end.join(n.encode() for n in lines)))
        return str(tmp_path / name)

    for output, form in ((plain, b"%s"), (other, ENDINGS[how])):
        ids = ["--ids", write("ids.txt", list("abcdef"), form)]
        cameras = ["--cameras", write("cameras.txt", ["gate", "gate", *["yard"] * 4], form)]
        make = ["index", "--features", str(tmp_path / "g.npy"), "--output", str(output)]
        execute([*make, "--by-camera", *ids, *cameras])
        execute(["remove", str(output), "--list", write("list.txt", ["b", "f"], form)])
    assert other.read_bytes() == plain.read_bytes()


def test_spaces_around_the_name_of_a_camera_make_no_other_one(tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", np.random.default_rng(0).normal(size=(4, 3)))
    (tmp_path / "c.txt").write_text("gate\ngate \n yard\nyard\n")
    make = ["index", "--by-camera", "--features", str(tmp_path / "g.npy")]
    make += ["--cameras", str(tmp_path / "c.txt"), "--output", str(tmp_path / "g.index")]
    execute(make)
    assert list(read_gallery(tmp_path / "g.index").cameras or ()) == [*["gate"] * 2, *["yard"] * 2]
    execute([*make[:4], "--camera", "hall ", *make[6:]])
    assert list(read_gallery(tmp_path / "g.index").cameras or ()) == ["hall"] * 4
    (tmp_path / "c.txt").write_text("gate\n \nyard\nyard\n")
    with pytest.raises(SearchError, match="that of 1 is not known"):
        execute(make)


def test_outputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SearchError, match="is a folder"):
        check_file(tmp_path, "--output", SearchError)
    with pytest.raises(SearchError, match="cannot be written"):
        check_file(tmp_path / "file" / "x.csv", "--output", SearchError)
    check_file(tmp_path / "new" / "x.csv", "--output", SearchError)
    assert (tmp_path / "new").is_dir()


def test_progress_is_shown_of_long_work_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with vectors.ProgressBar("images described", 10) as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(vectors, "SECONDS", 0.05)
    with vectors.ProgressBar("images described", 10, done=4) as bar:
        time.sleep(0.1)
        bar.update(3)
    said = capsys.readouterr().err
    assert "images described" in said and "7/10" in said


def test_progress_chooses_no_start_method() -> None:
    code = (
        "import multiprocessing; from metabin_plugin.search.vectors import ProgressBar; "
        "ProgressBar('', 1).update(); "
        "assert multiprocessing.get_start_method(allow_none=True) is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_advice(number: int) -> None:
    script = (
        "import os, time\n"
        "from metabin_plugin.search.vectors import stoppable\n"
        "with stoppable(lambda: 'go on so'):\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(600)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=TOOLS, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (128 + number, "\nstopped; go on so\n")


def test_other_exceptions_pass(tmp_path: Path) -> None:
    from metabin_plugin.search.vectors import stoppable

    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SearchError), stoppable(lambda: ""):
        raise SearchError("x")
    assert signal.getsignal(signal.SIGTERM) == former
