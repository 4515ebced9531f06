"""The tables' text and numbers, against figures worked out by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from metabin_plugin.errors import ConfigError
from papertables.runs import Record, Run
from papertables.tables import (
    Outcome,
    Table,
    TableRow,
    markdown,
    measured,
    outcome,
    runs_csv,
    table_csv,
)

TABLE = Table(
    "table9",
    "What it shows.",
    ("method", "β"),
    (
        TableRow("dg/two", ("Two", "fixed"), (50.9, None)),
        TableRow("dg/one", ("One", "cyclic"), (None, None)),
        TableRow("dg/none", ("None", ""), (1.0, 2.25)),
    ),
)


def result(row: str, seed: int, seconds: float, peak: float, **targets: list[float]) -> Outcome:
    pairs = {target: (rank1, precision) for target, (rank1, precision) in targets.items()}
    return Outcome(Run(row, seed, Path("out")), pairs, seconds, peak)


# Averages over the targets: 20 and 23 Rank-1, 30 and 36 mAP; one run: 12.5 and 7.
OUTCOMES = {
    "dg/two": [
        result("dg/two", 1, 10.0, 700.0, A=[10.0, 20.0], B=[30.0, 40.0]),
        result("dg/two", 2, 13.0, 900.0, A=[13.0, 26.0], B=[33.0, 46.0]),
    ],
    "dg/one": [result("dg/one", 1, 5.4, 123.4, A=[12.5, 7.0])],
}


def test_markdown() -> None:
    lines = markdown(TABLE, OUTCOMES, "A note.").splitlines()
    assert lines[:4] == ["What it shows.", "", "A note.", ""]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert cells[0] == [
        *("method", "β", "paper Rank-1", "paper mAP"),
        *("Rank-1", "mAP", "seeds", "seconds", "peak MiB"),
    ]
    # Sample deviations of two values: their difference over the root of 2.
    assert cells[2:] == [
        ["Two", "fixed", "50.9", "-", "21.5 ± 2.1", "33.0 ± 4.2", "2", "12", "900"],
        ["One", "cyclic", "-", "-", "12.5", "7.0", "1", "5", "123"],
        ["None", "", "1.0", "2.2", "-", "-", "-", "-", "-"],
    ]


def test_csv_has_the_unrounded_numbers() -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(TABLE, OUTCOMES))))
    assert [row["row"] for row in rows] == ["dg/two", "dg/one", "dg/none"]
    two = rows[0]
    assert (two["method"], two["β"], two["paper_rank1"], two["paper_map"]) == (
        *("Two", "fixed", "50.9", ""),
    )
    expected = {"rank1_mean": 21.5, "rank1_std": 3 / 2**0.5, "map_mean": 33, "map_std": 6 / 2**0.5}
    expected.update(seeds=2, seconds=11.5, peak_mib=900)
    assert {key: float(two[key]) for key in expected} == pytest.approx(expected)
    assert (rows[1]["rank1_mean"], rows[1]["rank1_std"]) == ("12.5", "")
    assert set(list(rows[2].values())[5:]) == {""}


def test_every_run_and_target_is_listed() -> None:
    rows = list(csv.reader(io.StringIO(runs_csv([*OUTCOMES["dg/two"], *OUTCOMES["dg/one"]]))))
    assert rows[0] == ["row", "seed", "target", "rank1", "map", "seconds", "peak_mib"]
    assert rows[1:] == [
        ["dg/two", "1", "A", "10.0", "20.0", "10.0", "700.0"],
        ["dg/two", "1", "B", "30.0", "40.0", "10.0", "700.0"],
        ["dg/two", "2", "A", "13.0", "26.0", "13.0", "900.0"],
        ["dg/two", "2", "B", "33.0", "46.0", "13.0", "900.0"],
        ["dg/one", "1", "A", "12.5", "7.0", "5.4", "123.4"],
    ]


def test_measured_rounds_to_one_place() -> None:
    assert str(measured([1.0])) == "1.0"
    assert str(measured([1.0, 1.0, 4.0])) == "2.0 ± 1.7"


def finished_run(folder: Path) -> Run:
    run = Run("dg/BN", 1, folder)
    run.write_record(Record({"A": 1}, True, 12.0, resident_mib=345.0))
    metrics = {"Rank-1": 10, "mAP": 20.5, "std": {"Rank-1": 1.0}, "splits": []}
    run.results.write_text(json.dumps({"T": metrics}))
    return run


def test_an_outcome_is_read_from_the_runs_files(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    assert outcome(run) == Outcome(run, {"T": (10.0, 20.5)}, 12.0, 345.0)


def test_the_memory_of_a_gpu_is_taken_from_the_log(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    (tmp_path / "log.txt").write_text("lr: 1e-2  max_mem: 812M\nlr: 1e-3  max_mem: 901M\nend\n")
    found = outcome(run)
    assert found is not None
    assert found.peak_mib == 901.0


def test_there_is_none_before_the_end(tmp_path: Path) -> None:
    assert outcome(Run("dg/BN", 1, tmp_path / "absent")) is None
    run = finished_run(tmp_path)
    run.write_record(Record({"A": 1}, False, 12.0))
    assert outcome(run) is None


@pytest.mark.parametrize("text", ["{", '{"T": {}}', '{"T": {"Rank-1": "x", "mAP": 1}}', "[1]"])
def test_damaged_results_are_refused(tmp_path: Path, text: str) -> None:
    run = finished_run(tmp_path)
    run.results.write_text(text)
    with pytest.raises(ConfigError, match=r"results\.json is damaged; remove"):
        outcome(run)


@pytest.mark.parametrize("text", ["{", "[]", '{"other": 1}'])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    run = finished_run(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json is damaged; remove"):
        run.record()


def test_changed_settings_are_refused(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    run.check_unchanged({"A": 1})
    with pytest.raises(ConfigError, match=r"\(A: 1 -> 2; B: \(absent\) -> 3\); remove"):
        run.check_unchanged({"A": 2, "B": 3})
