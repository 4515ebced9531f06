"""The demo's table: means and deviations over seeds, of targets and of their average."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import pytest

from metabin_plugin.cli.demo import METRICS, Results, results_table, write_csv


def results(*rank1: float) -> Results:
    """Of two targets, which differ in Rank-1."""
    names = ("DG_VIPeR", "DG_PRID")
    return {
        name: {metric: (value if metric == "Rank-1" else 50.0) for metric in METRICS}
        for name, value in zip(names, rank1, strict=True)
    }


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_several_runs_have_mean_and_sample_deviation() -> None:
    runs = {"BN": [results(10, 30), results(20, 60)], "MetaBIN": [results(1, 2), results(3, 5)]}
    lines = results_table(runs).splitlines()
    assert cells(lines[0]) == ["Target", "Method", *METRICS]
    rows = {tuple(cells(line)[:2]): cells(line)[2] for line in lines[2:]}
    assert list(rows) == [
        (target, method) for target in ("VIPeR", "PRID", "average") for method in runs
    ]
    assert rows["VIPeR", "BN"] == f"15.0 ± {statistics.stdev([10, 20]):.1f}"
    # Of the runs' averages, not of all numbers.
    assert rows["average", "BN"] == f"30.0 ± {statistics.stdev([20, 40]):.1f}"
    assert rows["average", "MetaBIN"] == f"2.8 ± {statistics.stdev([1.5, 4]):.1f}"


def test_one_run_has_no_deviation() -> None:
    lines = results_table({"BN": [results(10, 30)]}).splitlines()
    assert cells(lines[-1]) == ["average", "BN", "20.0", "50.0", "50.0", "50.0"]


def test_the_table_file_has_every_seed(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_csv({"BN": {1: results(10, 30), 7: results(1 / 3, 5)}}, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["target"]) for row in rows] == [
        (seed, target) for seed in ("1", "7") for target in ("DG_VIPeR", "DG_PRID", "average")
    ]
    assert float(rows[3]["Rank-1"]) == pytest.approx(1 / 3, rel=1e-5)
    assert {row["method"] for row in rows} == {"BN"}
