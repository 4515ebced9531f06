"""Checking data before a run: what is counted, what is listed, and the exit status."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import check_datasets
from metabin_plugin.data import ManifestDataset
from metabin_plugin.data.check import drop_images
from metabin_plugin.data.datasets import DG_VIPeR
from metabin_plugin.errors import ConfigError
from tests.engine.tiny_data import CONFIGS, tiny_options, write_manifest


class Outcome:
    """Exit status and printed lines of a call of the tool."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["check_datasets.py", "--workers", "0", *arguments])
            self.status = check_datasets.main()
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
        ("source1.csv, line 8,", 'no "pid"'),
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
            Image.fromarray(np.full((4, 4, 3), 9 * person, np.uint8)).save(path)
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
        (["SOLVER.IMS_PER_BATCH", "30"], ["needs 5 identities", '"source0" has 4']),
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
    assert 'Domain "lonely" has 1 identity' in problem


def test_warnings_leave_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_manifest(tmp_path, "own", 1)
    lines = manifest.read_text().splitlines()
    lines[5:9] = [lines[5]]
    lines[-4:] = ["own/3_0.png,3,0,query", "own/3_1.png,3,0,gallery", "own/3_2.png,4,0,gallery"]
    manifest.write_text("\n".join(lines))
    outcome = Outcome(capsys, "--datasets", str(manifest))
    assert outcome.status == 0
    single, unmatched = outcome.warnings
    assert "own.csv (train): 1 identities with one image" in single
    assert "1_0.png" in single
    assert "own.csv (query): 1 queries without" in unmatched
    assert "3_0.png" in unmatched


def test_nothing_to_check_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "--datasets", "nowhere.csv")
    assert outcome.status == 1
    assert len(outcome.problems) == 1


def test_wrong_keys_stop_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"DATASETS\.TESTS is empty"):
        Outcome(capsys, *config(tmp_path, "DATASETS.TESTS", "()"))
    with pytest.raises(SystemExit):
        Outcome(capsys, "--workers", "-1", "--datasets", "own.csv")


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
