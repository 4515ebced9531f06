"""Checking data before a run: what is counted, what is listed, and the exit status."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metabin_plugin.cli.main import execute
from metabin_plugin.data import ManifestDataset
from metabin_plugin.data.check import drop_images
from metabin_plugin.data.datasets import DG_VIPeR
from metabin_plugin.errors import ConfigError
from tests.engine.tiny_data import CONFIGS, tiny_options, write_manifest


class Outcome:
    """Exit status and printed lines of a call of the tool."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.status = execute(["check", "--workers", "0", *arguments])
        lines = capsys.readouterr().out.splitlines()
        self.rows = {
            tuple(cells[:2]): cells[2:]
            for cells in ([c.strip() for c in line.split("|")[1:-1]] for line in lines)
            if cells
        }
        self.problems = [line for line in lines if line.startswith("problem: ")]
        self.warnings = [line for line in lines if line.startswith("warning: ")]


def config(folder: Path, *extra: str) -> list[str]:
    """Arguments for the tiny data's config: three sources with four identities, one target."""
    return ["--config-file", str(CONFIGS / "MetaBIN.yml"), *tiny_options(folder), *extra]


def test_clean_data_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, *config(tmp_path))
    assert outcome.status == 0
    assert not outcome.problems
    assert not outcome.warnings
    size = ["16 / 16 / 16", "32 / 32 / 32"]
    for domain in range(3):
        row = outcome.rows[str(tmp_path / f"source{domain}.csv"), "train"]
        assert row == ["16", "4", "0", "2", "1", *size]
    target = str(tmp_path / "target.csv")
    assert outcome.rows[target, "query"] == ["4", "4", "4", "1", "", *size]
    assert outcome.rows[target, "gallery"] == ["12", "4", "0", "2", "", *size]


def test_sizes_and_camera_domains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = config(tmp_path, "METABIN.DOMAIN", "camera", "SOLVER.IMS_PER_BATCH", "12")
    Image.new("RGB", (40, 8)).save(tmp_path / "source0" / "0_0.png")
    row = Outcome(capsys, *arguments).rows[str(tmp_path / "source0.csv"), "train"]
    assert row[4:] == ["2", "16 / 16 / 40", "8 / 32 / 32"]


def test_all_problems_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = config(tmp_path)
    names = '("absent.csv", "{0}/source0.csv", "{0}/source1.csv", "DG_Market1501")'
    arguments += ["DATASETS.NAMES", names.format(tmp_path)]
    truncated = tmp_path / "source0" / "1_1.png"
    truncated.write_bytes(truncated.read_bytes()[:100])
    (tmp_path / "target" / "2_2.png").write_bytes(b"no image")
    manifest = tmp_path / "source1.csv"
    lines = manifest.read_text().splitlines()
    lines[3] = "source1/absent.png,1,1,train"
    lines[7] = "source1/1_1.png,,1,train"
    manifest.write_text("\n".join(lines))
    outcome = Outcome(capsys, *arguments)
    assert outcome.status == 1
    expected = [
        ("absent.csv", "neither"),
        ("source1.csv, line 4,", "absent.png", "does not exist"),
        ("source1.csv, line 8,", "no 'pid'"),
        ("DG_Market1501", "is missing"),
        (str(truncated), "cannot be read"),
        ("2_2.png", "is not an image"),
    ]
    assert len(outcome.problems) == len(expected)
    for problem, words in zip(outcome.problems, expected, strict=True):
        assert all(word in problem for word in words)
    # What could be loaded is counted.
    assert outcome.rows[str(manifest), "train"][0] == "14"


def test_repeated_images_are_found_by_whatever_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = config(tmp_path)
    (tmp_path / "link").symlink_to("source0")
    for name, row in (
        ("source0.csv", "link/0_0.png,7,1,train"),
        ("source1.csv", "source0/../source0/1_1.png,8,1,train"),
        ("source2.csv", "target/0_0.png,9,1,train"),
    ):
        with (tmp_path / name).open("a") as file:
            file.write(row + "\n")
    outcome = Outcome(capsys, *arguments)
    assert outcome.status == 1
    assert len(outcome.problems) == 3
    for problem, words in zip(
        outcome.problems,
        (
            ("0_0.png", "source0.csv (train)"),
            ("1_1.png", "source0.csv (train)", "source1.csv (train)"),
            ("target/0_0.png", "source2.csv (train)", "target.csv (query)"),
        ),
        strict=True,
    ):
        assert "is listed 2 times" in problem
        assert all(word in problem for word in words)


def test_queries_in_their_gallery_and_whole_training_lists_are_no_repetitions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_manifest(tmp_path, "target", 1, subset="test")
    with manifest.open("a") as file:
        file.write("target/0_0.png,0,0,gallery\n")
    assert Outcome(capsys, "--datasets", str(manifest)).status == 0

    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    for camera, angle in (("cam_a", 0), ("cam_b", 90)):
        (tmp_path / "VIPeR" / camera).mkdir(parents=True)
        for person in range(4):
            path = tmp_path / "VIPeR" / camera / f"{person:03d}_{angle}.bmp"
            Image.fromarray(np.full((4, 4, 3), 9 * person + angle, np.uint8)).save(path)
    name = DG_VIPeR.__name__
    outcome = Outcome(capsys, "--datasets", name)
    assert outcome.status == 0
    assert outcome.rows[name, "train"][0] == "8"
    # Trained on, the same images are those of the test.
    trained = config(tmp_path, "DATASETS.NAMES", f'("{name}",)', "DATASETS.TESTS", f'("{name}",)')
    outcome = Outcome(capsys, *trained, "METABIN.HOOKS", "()", "SOLVER.IMS_PER_BATCH", "4")
    assert outcome.status == 1
    assert len(outcome.problems) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["SOLVER.IMS_PER_BATCH", "30"], ["needs 5 identities", "'source0' has 4"]),
        (
            [
                *("METABIN.HOOKS", "()", "DATALOADER.SAMPLER_TRAIN", "GraphSampler"),
                *("SOLVER.IMS_PER_BATCH", "30"),
            ],
            ["SOLVER.IMS_PER_BATCH 30", "needs 5 identities", "'source0' has 4"],
        ),
        (["SOLVER.IMS_PER_BATCH", "10"], ["SOLVER.IMS_PER_BATCH is 10", "multiple of 6"]),
        (["METABIN.IMS_PER_BATCH", "30"], ["METABIN.IMS_PER_BATCH 30", "needs 5 identities"]),
    ],
)
def test_domains_too_small_for_the_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: list[str]
) -> None:
    outcome = Outcome(capsys, *config(tmp_path, *options))
    assert outcome.status == 1
    assert all(word in outcome.problems[0] for word in words)
    assert len(outcome.problems) == (1 if "10" in options else 3)
    plain = ["DATALOADER.SAMPLER_TRAIN", "TrainingSampler", "METABIN.HOOKS", "()"]
    assert Outcome(capsys, *config(tmp_path, *options, *plain)).status == 0


def test_a_domain_with_one_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lonely = str(write_manifest(tmp_path, "lonely", 1, identities=1))
    good = str(write_manifest(tmp_path, "good", 2))
    outcome = Outcome(capsys, "--datasets", lonely, good)
    assert outcome.status == 1
    (problem,) = outcome.problems
    assert "Domain 'lonely' has 1 identity" in problem


@pytest.mark.parametrize("kind", ["dataset", "camera"])
def test_advice_for_a_small_domain_is_about_its_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    # One manifest of three domains: to take it out of DATASETS.NAMES would leave no data at all.
    manifest = write_manifest(tmp_path, "own", 1, identities=5)
    head, *lines = manifest.read_text().splitlines()
    domain = ["north", "north", "south", "south", "west"]
    of_person = {str(person): name for person, name in enumerate(domain)}
    cells = [line.split(",") for line in lines]
    labelled = [f"{c[0]},{c[1]},{of_person[c[1]]},{c[3]},{of_person[c[1]]}" for c in cells]
    manifest.write_text("\n".join([f"{head},domain", *labelled]))
    options = ["--config-file", str(CONFIGS / "MetaBIN-demo.yml"), "METABIN.DOMAIN", kind]
    options += ["DATASETS.NAMES", str(manifest), "DATASETS.TESTS", "()", "TEST.EVAL_PERIOD", "0"]
    options += ["SOLVER.IMS_PER_BATCH", "24", "DATALOADER.NUM_INSTANCE", "4"]
    (problem,) = Outcome(capsys, *options).problems
    assert "has 1 identity" in problem and "west" in problem
    assert "add images of other people to it, or leave its images out" in problem
    assert "DATASETS.NAMES" not in problem


def test_warnings_leave_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_manifest(tmp_path, "own", 1)
    lines = manifest.read_text().splitlines()
    lines[5:9] = [lines[5]]
    lines[-4:] = ["own/3_0.png,9,0,query", "own/3_1.png,9,0,gallery"]
    lines += ["own/3_2.png,8,0,query", "own/3_3.png,8,1,gallery"]
    manifest.write_text("\n".join(lines))
    outcome = Outcome(capsys, "--datasets", str(manifest))
    assert outcome.status == 0
    single, unmatched = outcome.warnings
    assert "own.csv (train): 1 identities with one image" in single
    assert "1_0.png" in single
    assert "own.csv (query): 1 queries without" in unmatched
    assert "3_0.png" in unmatched


@pytest.mark.parametrize("cameras", ["00000000", "01230123"], ids=["one", "one per person"])
def test_a_target_without_a_scorable_query_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cameras: str
) -> None:
    arguments = config(tmp_path)
    rows = [
        f"target/{k % 4}_{k // 4}.png,{k % 4},{camera},{'query' if k < 4 else 'gallery'}"
        for k, camera in enumerate(cameras)
    ]
    (tmp_path / "target.csv").write_text("\n".join(["path,pid,camid,subset", *rows]))
    for outcome in (
        Outcome(capsys, *arguments),
        Outcome(capsys, "--datasets", str(tmp_path / "target.csv")),
    ):
        assert outcome.status == 1
        (problem,) = outcome.problems
        assert "target.csv" in problem and "none of its 4 queries" in problem
        assert not outcome.warnings


# How a copy of an image is made: its name, and how it is written.
COPIES = {
    "file": ("copy.png", {}),
    "other format, equal pixels": ("copy.bmp", {}),
    "lossless WebP": ("copy.webp", {"lossless": True}),
    "JPEG": ("copy.jpg", {"quality": 75}),
    "WebP": ("copy.webp", {"quality": 80}),
    "twice as large": ("copy.png", {"scale": 2}),
    "link": ("copy.png", {"link": True}),
    "hard link": ("copy.png", {"hard_link": True}),
}


@pytest.fixture(params=COPIES.values(), ids=COPIES)
def copy(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """Function that copies an image into a folder ``other`` beside its own; the copy's path."""
    name, options = request.param

    def make(path: Path) -> str:
        target = path.parents[1] / "other" / f"{path.stem}_{name}"
        target.parent.mkdir(exist_ok=True)
        if "link" in options:
            target.symlink_to(path)
        elif "hard_link" in options:
            os.link(path, target)
        else:
            image = Image.open(path)
            image = image.resize([side * options.get("scale", 1) for side in image.size])
            image.save(target, **{k: v for k, v in options.items() if k != "scale"})
        return f"other/{target.name}"

    return make


def drawn(folder: Path, name: str, seed: int) -> list[Path]:
    """Pictures of eight things, each of its own."""
    (folder / name).mkdir(exist_ok=True)
    paths = []
    for number in range(8):
        coarse = np.random.default_rng([seed, number]).integers(0, 256, (6, 3, 3), np.uint8)
        paths.append(folder / name / f"{number}.png")
        Image.fromarray(coarse).resize((32, 64), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def manifest_of(folder: Path, name: str, rows: Sequence[str]) -> str:
    path = folder / name
    path.write_text("\n".join(["path,pid,camid,subset", *rows]))
    return str(path)


def test_queries_that_are_in_the_gallery_under_another_camera(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], copy: Callable[[Path], str]
) -> None:
    paths = drawn(tmp_path, "own", 0)
    rows = [f"own/{k}.png,{k % 4},{'a' if k < 4 else 'b'}," for k in range(8)]
    rows = [row + ("query" if k < 4 else "gallery") for k, row in enumerate(rows)]
    # Under its own camera the copy is left out by the evaluation.
    harmless = f"{copy(paths[0])},0,a,gallery"
    assert (
        Outcome(capsys, "--datasets", manifest_of(tmp_path, "a.csv", [*rows, harmless])).status == 0
    )
    copies = [f"{copy(paths[k])},{k},b,gallery" for k in (1, 2)]
    outcome = Outcome(
        capsys, "--datasets", manifest_of(tmp_path, "b.csv", [*rows, harmless, *copies])
    )
    assert outcome.status == 1
    (problem,) = outcome.problems
    assert "b.csv: 2 queries show the picture of a gallery image" in problem
    assert "own/1.png" in problem and "other/1_" in problem


def test_a_query_row_that_is_a_gallery_row_under_another_camera_or_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn(tmp_path, "own", 0)
    rows = [f"own/{k}.png,{k % 4},{k // 4},{'query' if k < 4 else 'gallery'}" for k in range(8)]
    for label in ("0,1", "1,0"):
        extra = f"own/0.png,{label},gallery"
        outcome = Outcome(capsys, "--datasets", manifest_of(tmp_path, "a.csv", [*rows, extra]))
        assert outcome.status == 1
        (problem,) = outcome.problems
        assert "1 queries show the picture" in problem and "own/0.png" in problem


def test_copies_are_found_in_every_drawn_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], copy: Callable[[Path], str]
) -> None:
    paths = drawn(tmp_path, "own", 0)
    rows = [f"own/{k}.png,{k % 4},{k // 4},test" for k in range(8)]
    assert Outcome(capsys, "--datasets", manifest_of(tmp_path, "a.csv", rows)).status == 0
    # The second view of each person is the first one again.
    rows = rows[:4] + [f"{copy(paths[k])},{k},1,test" for k in range(4)]
    outcome = Outcome(capsys, "--datasets", manifest_of(tmp_path, "b.csv", rows))
    assert outcome.status == 1
    assert "queries show the picture" in outcome.problems[0]


def test_test_images_that_are_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], copy: Callable[[Path], str]
) -> None:
    trained, tested = drawn(tmp_path, "train", 0), drawn(tmp_path, "test", 1)
    train = [f"train/{path.name},{k // 2},0,train" for k, path in enumerate(trained)]
    test = [
        f"test/{path.name},{k % 4},{k // 4},{'query' if k < 4 else 'gallery'}"
        for k, path in enumerate(tested)
    ]
    target = manifest_of(tmp_path, "target.csv", test)
    source = manifest_of(tmp_path, "source.csv", train)
    assert Outcome(capsys, "--datasets", source, target).status == 0
    copies = [f"{copy(tested[k])},{10 + k},0,train" for k in (1, 5, 6)]
    source = manifest_of(tmp_path, "source.csv", [*train, *copies])
    outcome = Outcome(capsys, "--datasets", source, target)
    assert outcome.status == 1
    text = " ".join(outcome.problems)
    assert "source.csv (train)" in text and "target.csv" in text and "other/1_" in text
    # A link is the same file, which is listed twice.
    assert "3 test images" in text or text.count("is listed 2 times") == 3


@pytest.mark.parametrize("subset", ["query", "gallery", "test"])
@pytest.mark.parametrize("domains", [False, True])
def test_people_who_are_trained_on_and_tested_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], subset: str, domains: bool
) -> None:
    tested = drawn(tmp_path, "test", 0)
    trained = drawn(tmp_path, "train", 1)
    sides = ["test"] * 8 if subset == "test" else ["query"] * 4 + ["gallery"] * 4
    rows = [f"test/{path.name},{k % 4},{k // 4},{sides[k]}" for k, path in enumerate(tested)]
    shared = {"query": 0, "gallery": 3, "test": 2}[subset]
    rows += [f"train/{path.name},{shared + 5 * (k // 2)},0,train" for k, path in enumerate(trained)]
    lines = ["path,pid,camid,subset,domain", *(f"{row},shop" for row in rows)]
    if domains:
        # Labels of another domain are other people.
        lines = [line.replace("train,shop", "train,street") for line in lines]
    manifest = tmp_path / "own.csv"
    manifest.write_text("\n".join(lines))
    named = Outcome(capsys, "--datasets", str(manifest))
    both = ["DATASETS.NAMES", f'("{manifest}",)', "DATASETS.TESTS", f'("{manifest}",)']
    plain = ["METABIN.HOOKS", "()", "DATALOADER.SAMPLER_TRAIN", "TrainingSampler"]
    for outcome in (named, Outcome(capsys, *config(tmp_path, *both, *plain))):
        assert outcome.status == (0 if domains else 1)
        for problem in outcome.problems:
            assert "1 people of its training rows are in its test rows too" in problem
            assert f"for example 'shop:{shared}'" in problem
        assert len(outcome.problems) == (0 if domains else 1)
    # Tested alone, the training rows count for nothing.
    assert Outcome(capsys, *config(tmp_path, *both[2:])).status == 0


def test_a_distractor_is_not_the_person_of_its_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested, trained = drawn(tmp_path, "test", 0), drawn(tmp_path, "train", 1)
    tested[7].rename(tmp_path / "test" / "0000_c1s1_000151_01.jpg")
    names = [path.name for path in tested[:7]]
    rows = [f"test/{n},{k % 4 + 7},{k // 4},query" for k, n in enumerate(names[:4])]
    rows += [f"test/{n},{k % 4 + 7},1,gallery" for k, n in enumerate(names[4:])]
    rows += [f"train/{path.name},{k // 2},0,train" for k, path in enumerate(trained)]
    distractor = "test/0000_c1s1_000151_01.jpg,0,1,gallery"
    manifest = manifest_of(tmp_path, "own.csv", [*rows, distractor])
    assert Outcome(capsys, "--datasets", manifest).status == 0


def test_a_picture_that_is_trained_on_as_two_people_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = drawn(tmp_path, "own", 0)
    rows = [f"own/{k}.png,{k % 4},{k // 4},train" for k in range(8)]
    Image.open(paths[0]).save(tmp_path / "again.bmp")
    Image.new("RGB", (8, 8)).save(tmp_path / "black1.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "black2.png")
    # Twice of the same person, and nothing to see on two others.
    harmless = ["again.bmp,0,1,train", "black1.png,0,0,train", "black2.png,1,0,train"]
    outcome = Outcome(capsys, "--datasets", manifest_of(tmp_path, "a.csv", [*rows, *harmless]))
    assert (outcome.status, outcome.warnings) == (0, [])
    one = manifest_of(tmp_path, "b.csv", [*rows, "again.bmp,3,1,train"])
    others = [manifest_of(tmp_path, "c.csv", rows)]
    others += [manifest_of(tmp_path, "d.csv", ["again.bmp,0,1,train", "black1.png,1,1,train"])]
    for names in ([one], others):
        outcome = Outcome(capsys, "--datasets", *names)
        assert outcome.status == 0
        (warning,) = [text for text in outcome.warnings if "show the picture" in text]
        assert "1 training images show the picture of another person's image" in warning
        assert "0.png" in warning and "again.bmp" in warning


@pytest.mark.skipif(os.name != "posix", reason="no such names there")
def test_names_are_shown_in_one_line_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a\x1b[31m\nb {x} %s {0}"
    paths = drawn(tmp_path, name, 0)
    files = [shutil.copy(path, tmp_path / f"{name}{path.name}") for path in paths]
    rows = [
        [os.path.basename(file), str(k % 4), str(k // 4), "query" if k < 4 else "gallery"]
        for k, file in enumerate(files)
    ]
    # Copied across cameras, unmatched, alone in training, and listed twice.
    rows += [[rows[0][0], "0", "1", "gallery"], [rows[1][0], "7", "0", "train"]]
    rows[3][1] = "nobody"
    manifest = tmp_path / f"{name}.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "pid", "camid", "subset"], *rows])
    assert execute(["check", "--workers", "0", "--datasets", str(manifest)]) == 1
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert r"\x1b[31m\nb {x} %s {0}" in printed
    starts = ("|", "problem: ", "warning: ", "3 problem(s)", "4 problem(s)")
    assert all(line.startswith(starts) for line in printed.splitlines() if line)


def test_nothing_to_check_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "--datasets", "nowhere.csv")
    assert outcome.status == 1
    assert len(outcome.problems) == 1


def test_wrong_keys_stop_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"DATASETS\.TESTS is empty"):
        Outcome(capsys, *config(tmp_path, "DATASETS.TESTS", "()"))
    with pytest.raises(SystemExit):
        Outcome(capsys, "--workers", "-1", "--datasets", "own.csv")
    with pytest.raises(ConfigError, match=r"^KEY VALUE pairs INPUT.SIZE_TEST \[8,4\] change"):
        execute(["check", "--datasets", "own.csv", "--workers", "0", "INPUT.SIZE_TEST", "[8,4]"])


def test_processes_find_what_one_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--datasets", str(write_manifest(tmp_path, "own", 1))]
    (tmp_path / "own" / "2_2.png").write_bytes(b"\xff\xd8")
    one = Outcome(capsys, *arguments)
    two = Outcome(capsys, "--workers", "2", *arguments)
    assert one.status == two.status == 1
    assert one.rows == two.rows
    assert one.problems == two.problems


def test_unreadable_images_are_taken_out_of_manifests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = config(tmp_path)
    good = {path: path.read_bytes() for path in tmp_path.glob("*.csv")}
    (tmp_path / "source1" / "0_0.png").write_bytes(b"no image")
    (tmp_path / "source1" / "0_1.png").write_bytes(b"no image")
    (tmp_path / "target" / "3_3.png").write_bytes(b"no image")
    assert Outcome(capsys, *arguments).status == 1
    assert {path: path.read_bytes() for path in good} == good
    outcome = Outcome(capsys, "--drop-unreadable", *arguments)
    assert outcome.status == 0
    assert outcome.rows[str(tmp_path / "source1.csv"), "train"][0] == "14"
    assert outcome.rows[str(tmp_path / "target.csv"), "gallery"][0] == "11"
    for path, text in good.items():
        lost = {"source1.csv": (b"0_0", b"0_1"), "target.csv": (b"3_3",)}.get(path.name, ())
        kept = [line for line in text.splitlines() if not any(name in line for name in lost)]
        assert path.read_bytes().splitlines() == kept


def test_lines_keep_what_only_their_owner_reads(tmp_path: Path) -> None:
    write_manifest(tmp_path, "own", 1, identities=2, images=2)
    manifest = tmp_path / "own.csv"
    lines = ["note,path , pid,camid", '"a, b",own/0_0.png,1,1', "ü,own/0_1.png ,1,1", "x"]
    manifest.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    assert drop_images([str(manifest), "DG_VIPeR"], {str(tmp_path / "own/0_1.png")}) == {
        str(manifest): 1
    }
    assert manifest.read_text("utf-8").splitlines() == [*lines[:2], "x"]
    others = []
    for name, content in (("a.csv", b""), ("b.csv", b"x,y\n1,2\n"), ("c.csv", b"\xff\xfe")):
        (tmp_path / name).write_bytes(content)
        others.append(str(tmp_path / name))
    others += [str(manifest), str(tmp_path / "absent.csv")]
    assert drop_images(others, {str(tmp_path / "own/0_1.png")}) == {}


def test_images_of_every_split_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = write_manifest(tmp_path, "splits", 7, identities=6, subset="test")
    text = target.read_text().replace(",query", ",test").replace(",gallery", ",test")
    target.write_text(text)
    first = ManifestDataset(str(target))
    used = {item[0] for side in first.splits[0] for item in side}
    later = {item[0] for split in first.splits for side in split for item in side} - used
    broken = Path(min(later))
    broken.write_bytes(broken.read_bytes()[:60])
    options = ["DATASETS.TESTS", f'("{target}",)']
    outcome = Outcome(capsys, *config(tmp_path, *options))
    assert outcome.status == 1
    assert len(outcome.problems) == 1
    assert str(broken) in outcome.problems[0]
