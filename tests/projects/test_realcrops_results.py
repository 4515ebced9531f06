"""The raw rows and the table, against numpy's statistics."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from metabin_plugin.errors import ConfigError
from papertables.runs import Record, Run
from realcrops.results import (
    BY_CAMERA,
    METRICS,
    POINTS,
    Result,
    markdown,
    paired_difference,
    raw_csv,
    read_results,
)

TARGETS = ("VIPeR", "PRID")
PLACE = {"commit": "abc", "torch": "2.14.1", "processor": "Fast, 2 cores"}


def drawn(arm: str, seeds: list[int], level: float, seconds: int | None = 60) -> list[Result]:
    rng = np.random.default_rng(sum(map(ord, arm)))
    return [
        Result(
            arm,
            seed,
            {t: {m: float(level + 5 * rng.random()) for m in METRICS} for t in TARGETS},
            None if seconds is None else seconds + seed,
            None if seconds is None else 2 * seconds,
            PLACE,
        )
        for seed in seeds
    ]


RESULTS = [
    *drawn("BN", [1, 2, 3], 20.0),
    *drawn("MetaBIN", [1, 2, 3], 30.0, 100),
    *drawn("new", [1, 3, 4], 40.0, None),
    *drawn("once", [2], 25.0),
    *drawn("alone", [9], 25.0),
]
TITLES = {"BN": "BN", "MetaBIN": "MetaBIN", "new": "What is new", "once": "once"}


def values(arm: str, metric: str) -> np.ndarray:
    """The mean of the targets and the targets in the rows, seeds in the columns.

    As a reader of the raw rows has them, from which the tables must follow.
    """
    own = [row for row in csv.DictReader(io.StringIO(raw_csv(RESULTS))) if row["arm"] == arm]
    return np.array([[float(row[f"{t} {metric}"]) for row in own] for t in ("average", *TARGETS)])


def tables() -> dict[str, list[list[str]]]:
    """Cells of the two tables by their first heading."""
    found: dict[str, list[list[str]]] = {}
    for block in markdown(RESULTS, TITLES, "About.").split("\n\n")[1:]:
        lines = [[c.strip() for c in line.strip("|").split("|")] for line in block.splitlines()]
        found[lines[0][0]] = [lines[0], *lines[2:]]
    return found


def test_headings() -> None:
    text = markdown(RESULTS, TITLES, "About.")
    assert text.startswith("About. Mean ± standard deviation over the seeds, in %.\n\n| mAP")
    assert list(tables()) == ["mAP", "Rank-1"]
    headings = ["average", *TARGETS, "average − MetaBIN", "average by camera"]
    headings += ["CPU seconds", "seeds"]
    assert tables()["Rank-1"][0] == ["Rank-1", *headings]


@pytest.mark.parametrize("metric", ["mAP", "Rank-1"])
@pytest.mark.parametrize(("arm", "line"), [("BN", 1), ("MetaBIN", 2), ("new", 3)])
def test_mean_and_deviation(metric: str, arm: str, line: int) -> None:
    cells = tables()[metric][line]
    expected = values(arm, metric)
    means, deviations = expected.mean(1), expected.std(1, ddof=1)
    assert cells[0] == TITLES[arm]
    assert cells[1:4] == [f"{m:.1f} ± {d:.1f}" for m, d in zip(means, deviations, strict=True)]
    assert cells[-1] == "3"


def test_one_seed_has_no_deviation() -> None:
    cells = tables()["mAP"][4]
    assert cells[1:4] == [f"{value:.1f}" for (value,) in values("once", "mAP")]


def test_seconds_are_those_that_are_known() -> None:
    assert [line[-2] for line in tables()["mAP"][1:]] == ["62", "102", "-", "62", "69"]


@pytest.mark.parametrize("metric", METRICS)
def test_differences_are_paired_by_seed(metric: str) -> None:
    reference = values("MetaBIN", metric)[0]
    bn = values("BN", metric)[0] - reference
    found = paired_difference(RESULTS, "BN", metric)
    assert found == pytest.approx((bn.mean(), bn.std(ddof=1) / np.sqrt(3)))
    # Seeds 1 and 3 are common; 4 has no partner.
    new = values("new", metric)[0][:2] - reference[[0, 2]]
    found = paired_difference(RESULTS, "new", metric)
    assert found == pytest.approx((new.mean(), new.std(ddof=1) / np.sqrt(2)))
    one = values("once", metric)[0] - reference[1]
    assert paired_difference(RESULTS, "once", metric) == (pytest.approx(one[0]), None)
    assert paired_difference(RESULTS, "alone", metric) is None


def test_differences_in_the_table() -> None:
    cells = [line[4] for line in tables()["mAP"][1:]]
    mean, error = paired_difference(RESULTS, "BN", "mAP") or (0.0, None)
    assert cells[0] == f"{mean:+.1f} ± {error:.1f}"
    # MetaBIN itself, and an arm without a seed in common.
    assert (cells[1], cells[4]) == ("-", "-")
    assert "±" not in cells[3]


def test_a_raw_row_has_all_numbers_of_a_run() -> None:
    rows = list(csv.DictReader(io.StringIO(raw_csv(RESULTS))))
    assert [(row["arm"], int(row["seed"])) for row in rows] == [(r.arm, r.seed) for r in RESULTS]
    row, result = rows[4], RESULTS[4]
    for metric in METRICS:
        own = [result.targets[target][metric] for target in TARGETS]
        found = [float(row[f"{target} {metric}"]) for target in (*TARGETS, "average")]
        assert found == pytest.approx([*own, sum(own) / 2], abs=1e-4)
    assert (row["CPU seconds"], row["wall seconds"]) == ("102", "200")
    assert {key: row[key] for key in PLACE} == PLACE
    # The time of "new" is not known.
    assert rows[6]["CPU seconds"] == ""


def finish(
    output: Path,
    arm: str,
    seed: int,
    record: Record,
    text: str | None = None,
    by_camera: dict[str, float] | None = None,
) -> Path:
    run = Run(arm, seed, output / arm / f"seed{seed}")
    run.write_record(record)
    metrics = {**{m: float(seed) for m in METRICS}, **(by_camera or {})}
    content = {f"DG_{t}": {**metrics, "std": {}} for t in TARGETS}
    run.results.write_text(json.dumps(content) if text is None else text)
    return run.results


def test_finished_runs_are_read_whoever_ran_them(tmp_path: Path) -> None:
    done = Record({}, True, seconds=20.0, cpu_seconds=9.0, place=PLACE)
    finish(tmp_path, "other", 1, done)
    finish(tmp_path, "MetaBIN", 10, done)
    finish(tmp_path, "MetaBIN", 2, done)
    finish(tmp_path, "BN", 1, Record({}, True, 20.0, 9.0, is_timed=False))
    finish(tmp_path, "BN", 2, Record({}, False))
    (tmp_path / "slot0.lock").touch()
    found = read_results(tmp_path, ["BN", "IN", "MetaBIN"])
    assert [(r.arm, r.seed) for r in found] == [
        *(("BN", 1), ("MetaBIN", 2), ("MetaBIN", 10), ("other", 1)),
    ]
    assert found[1] == Result(
        "MetaBIN", 2, {t: dict.fromkeys(METRICS, 2.0) for t in TARGETS}, 9.0, 20.0, PLACE
    )
    assert (found[0].cpu_seconds, found[0].wall_seconds) == (None, None)


@pytest.mark.parametrize("text", ["", "[]", '{"DG_PRID": {"mAP": 1}}'])
def test_damaged_results_are_named(tmp_path: Path, text: str) -> None:
    path = finish(tmp_path, "BN", 1, Record({}, True), text)
    with pytest.raises(ConfigError, match=f"results in {path.parent} are damaged; remove"):
        read_results(tmp_path, [])


def test_the_tables_follow_from_the_rows_to_the_last_figure(tmp_path: Path) -> None:
    """Of the unrounded numbers they would say 1.2 and 11, which no reader of the rows finds."""
    for seed, seconds in ((1, 10.4), (2, 10.4), (3, 10.9)):
        record = Record({}, True, seconds=seconds, cpu_seconds=seconds, place=PLACE)
        metrics = dict.fromkeys(METRICS, 1.15004)
        finish(tmp_path, "BN", seed, record, json.dumps({"DG_VIPeR": metrics}))
    results = read_results(tmp_path, [])
    rows = list(csv.DictReader(io.StringIO(raw_csv(results))))
    mean = sum(float(row["average mAP"]) for row in rows) / 3
    seconds = sum(float(row["CPU seconds"]) for row in rows) / 3
    (line,) = [x for x in markdown(results, {}, "").split("\n\n")[1].splitlines() if "BN" in x]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == f"{mean:.1f} ± 0.0" == "1.1 ± 0.0"
    assert cells[-2] == f"{seconds:.0f}" == "10"


def test_a_run_without_targets_is_damaged(tmp_path: Path) -> None:
    finish(tmp_path, "BN", 1, Record({}, True), "{}")
    with pytest.raises(ConfigError, match="are damaged; remove"):
        read_results(tmp_path, [])


def test_a_folder_that_was_put_aside_is_no_run(tmp_path: Path) -> None:
    done = Record({}, True, place=PLACE)
    for seed in (1, 2):
        finish(tmp_path, "BN", seed, done)
    (tmp_path / "BN" / "seed2").rename(tmp_path / "BN" / "seed2.old")
    finish(tmp_path, "BN", 1, done).parent.rename(tmp_path / "BN" / "seed01")
    finish(tmp_path, "BN", 1, done)
    finish(tmp_path, "BN", -1, done)
    assert [(r.arm, r.seed) for r in read_results(tmp_path, [])] == [("BN", -1), ("BN", 1)]


def test_runs_with_other_targets_do_not_share_a_table(tmp_path: Path) -> None:
    """Their averages would be of other things, and the rows of one would lack columns."""
    done = Record({}, True, place=PLACE)
    finish(tmp_path, "BN", 1, done)
    content = {"DG_VIPeR": dict.fromkeys(METRICS, 1.0)}
    finish(tmp_path, "MetaBIN", 1, done, json.dumps(content))
    sentence = r"MetaBIN seed 1 was tested on VIPeR and BN seed 1 on VIPeR, PRID, .*; move one"
    with pytest.raises(ConfigError, match=sentence):
        read_results(tmp_path, ["BN", "MetaBIN"])


def write_points(folder: Path, seed: int, targets: tuple[str, ...] = TARGETS) -> None:
    lines = [
        f"DG_{t},{split},{seed / 10},0.2,{seed},0.3" for t in targets for split in ("mean", "0")
    ]
    (folder / "operating_points.csv").write_text(
        "\n".join([",".join(["target", "split", *POINTS]), *lines]) + "\n"
    )


def test_operating_points_are_in_rows_and_a_table_of_their_own(tmp_path: Path) -> None:
    done = Record({}, True, seconds=20.0, cpu_seconds=9.0, place=PLACE)
    for seed in (1, 3):
        write_points(finish(tmp_path, "MetaBIN", seed, done).parent, seed)
    finish(tmp_path, "BN", 1, done)
    results = read_results(tmp_path, ["BN", "MetaBIN"])
    without, first, _ = csv.DictReader(io.StringIO(raw_csv(results)))
    assert [without[f"PRID {name}"] for name in POINTS] == [""] * 4
    assert [float(first[f"PRID {name}"]) for name in POINTS] == pytest.approx([10, 20, 1, 30])
    table = markdown(results, TITLES, "About.").split("\n\n")[-1].splitlines()
    # Means of 10 and 30 and of 1 and 3, with their sample deviations; BN has none.
    assert [cell.strip() for cell in table[2].strip("|").split("|")] == [
        *("MetaBIN", "20.0 ± 14.1", "20.0 ± 0.0", "2.0 ± 1.4", "30.0 ± 0.0", "2"),
    ]
    assert len(table) == 3


def test_what_is_standardized_by_camera_has_a_column(tmp_path: Path) -> None:
    done = Record({}, True, seconds=20.0, cpu_seconds=9.0, place=PLACE)
    finish(tmp_path, "MetaBIN", 1, done, by_camera={"mAP_by_camera": 40, "Rank-1_by_camera": 30})
    finish(tmp_path, "MetaBIN", 2, done, by_camera={"mAP_by_camera": 50, "Rank-1_by_camera": 32})
    # An older run, whose evaluation did not standardize.
    finish(tmp_path, "MetaBIN", 3, done)
    finish(tmp_path, "BN", 1, done)
    results = read_results(tmp_path, ["BN", "MetaBIN"])
    rows = list(csv.DictReader(io.StringIO(raw_csv(results))))
    found = [[row[f"average {name}"] for name in BY_CAMERA.values()] for row in rows]
    assert found == [["", ""], ["40.0000", "30.0000"], ["50.0000", "32.0000"], ["", ""]]
    tables = markdown(results, TITLES, "About.").split("\n\n")[1:]
    cells = [[c.strip() for c in t.splitlines()[3].split("|")] for t in tables]
    assert [line[6] for line in cells] == ["45.0 ± 7.1", "31.0 ± 1.4"]
    assert {t.splitlines()[2].split("|")[6].strip() for t in tables} == {"-"}


def test_operating_points_without_a_figure_are_damaged(tmp_path: Path) -> None:
    path = finish(tmp_path, "BN", 1, Record({}, True))
    path.with_name("operating_points.csv").write_text("target,split,EER\nDG_PRID,mean,0.1\n")
    with pytest.raises(ConfigError, match="are damaged; remove"):
        read_results(tmp_path, [])
