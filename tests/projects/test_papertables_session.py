"""The command: which runs are started, what is written, and how it ends."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from metabin_plugin.errors import ConfigError
from papertables import command
from papertables.command import Experiments, Session
from papertables.rows import Budget
from papertables.runs import Lock, Record, Run
from tests.engine.tiny_data import tiny_options

ROOT = Path(__file__).parents[2]
RUN = ROOT / "projects" / "PaperTables" / "run.py"

# Stands for training: notes its command line, and fails or reports as it is told by files.
STUB = """
import json, pathlib, sys
options = dict(zip(sys.argv[4::2], sys.argv[5::2]))
folder = pathlib.Path(options["OUTPUT_DIR"])
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if (folder / "fails").exists():
    print("\\n".join(f"line {n}" for n in range(40)))
    sys.exit("no luck")
seed = int(options["METABIN.SEED"])
folder.joinpath("results.json").write_text(json.dumps({"T": {"Rank-1": 10 * seed, "mAP": 50}}))
"""
ROWS = ["dg/BN", "dg/MetaBIN"]


def experiments(folder: Path, **settings: object) -> Experiments:
    stub = folder / "stub.py"
    stub.write_text(STUB)
    budget = Budget("Tiny.", {"dg": {"TEST.EVAL_PERIOD": 1, **settings}})
    return Experiments(folder / "out", budget, dict.fromkeys(ROWS, str(stub)))


def calls(folder: Path, row: str, seed: int = 1) -> list[list[str]]:
    path = folder / "out" / row / f"seed{seed}" / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_each_row_and_seed_is_run_once_with_its_command(tmp_path: Path) -> None:
    for _ in range(2):
        assert Session(experiments(tmp_path), ROWS, [1, 2]).train(ROWS, 2) == 0
    for row in ROWS:
        for seed in (1, 2):
            (call,) = calls(tmp_path, row, seed)
            assert call == [
                *("--config-file", str(RUN.parent / "rows" / f"{row}.yml"), "--resume"),
                *("TEST.EVAL_PERIOD", "1", "METABIN.SEED", str(seed)),
                *("OUTPUT_DIR", str(tmp_path / "out" / row / f"seed{seed}")),
            ]


def test_only_chosen_rows_are_run(tmp_path: Path) -> None:
    assert Session(experiments(tmp_path), ROWS, [1]).train(["dg/MetaBIN"], 1) == 0
    assert (len(calls(tmp_path, "dg/BN")), len(calls(tmp_path, "dg/MetaBIN"))) == (0, 1)


def test_a_protocol_without_budget_is_left_out(tmp_path: Path) -> None:
    runs = experiments(tmp_path).runs(["dg/BN", "supervised/BN"], [1, 2])
    assert [str(run) for run in runs] == ["dg/BN seed 1", "dg/BN seed 2"]


def test_weights_are_told_to_every_run(tmp_path: Path) -> None:
    plain = experiments(tmp_path)
    chosen = Experiments(plain.output, plain.budget, plain.scripts, Path("net.pth"))
    run = next(chosen.runs(ROWS, [1]))
    assert "MODEL.BACKBONE.PRETRAIN True MODEL.BACKBONE.PRETRAIN_PATH net.pth" in " ".join(
        chosen.job(run).command
    )
    assert chosen.settings(run)["MODEL.BACKBONE.PRETRAIN_PATH"] == "net.pth"
    assert "OUTPUT_DIR" not in chosen.settings(run)


def test_a_failed_run_is_reported_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out" / "dg" / "BN" / "seed1"
    folder.mkdir(parents=True)
    (folder / "fails").touch()
    assert Session(experiments(tmp_path), ROWS, [1]).train(ROWS, 1) == 1
    printed = capsys.readouterr()
    assert "dg/BN seed 1: failed with status 1" in printed.err
    assert "    line 39\n    no luck" in printed.err
    assert "line 20\n" not in printed.err
    assert printed.err.endswith("1 runs failed: dg/BN seed 1\n")
    assert re.search(r"dg/MetaBIN seed 1: \d+ s, Rank-1 10\.0, mAP 50\.0", printed.out)
    # Fixed, it alone is run again.
    (folder / "fails").unlink()
    assert Session(experiments(tmp_path), ROWS, [1]).train(ROWS, 1) == 0
    assert (len(calls(tmp_path, "dg/BN")), len(calls(tmp_path, "dg/MetaBIN"))) == (2, 1)


def test_a_run_that_lost_its_results_is_run_again(tmp_path: Path) -> None:
    Session(experiments(tmp_path), ROWS, [1]).train(ROWS, 1)
    (tmp_path / "out" / "dg" / "BN" / "seed1" / "results.json").unlink()
    Session(experiments(tmp_path), ROWS, [1]).train(ROWS, 1)
    assert (len(calls(tmp_path, "dg/BN")), len(calls(tmp_path, "dg/MetaBIN"))) == (2, 1)


def test_a_changed_setting_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    Session(experiments(tmp_path), ROWS, [1]).train(["dg/BN"], 1)
    changed = experiments(tmp_path, **{"SOLVER.MAX_EPOCH": 3})
    sentence = r"^dg/BN seed 1 was run with other settings \(SOLVER\.MAX_EPOCH: 100 -> 3\); remove"
    with pytest.raises(ConfigError, match=sentence):
        Session(changed, ROWS, [1])
    assert len(calls(tmp_path, "dg/MetaBIN")) == 0
    Session(changed, ROWS, [2])


def test_tables_are_written_from_what_is_there(tmp_path: Path) -> None:
    rows = experiments(tmp_path)
    Session(rows, ROWS, [1, 2]).train(["dg/BN"], 1)
    command.write_tables(rows, ROWS, [1, 2], [command.read_plan().tables["table2"]])
    lines = (tmp_path / "out" / "table2.md").read_text().splitlines()
    assert lines[2] == "Tiny."
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[6:]]
    # Seeds 1 and 2 gave 10 and 20.
    assert cells[0][4:9] == ["50.9", "59.5", "15.0 ± 7.1", "50.0 ± 0.0", "2"]
    assert all(line[6:] == ["-"] * 5 for line in cells[1:])
    with (tmp_path / "out" / "runs.csv").open() as file:
        assert [row["rank1"] for row in csv.DictReader(file)] == ["10.0", "20.0"]
    assert (tmp_path / "out" / "table2.csv").exists()


def test_a_run_that_another_checkout_has_started_meanwhile_is_not_gone_on_with(
    tmp_path: Path,
) -> None:
    ours = experiments(tmp_path)
    session = Session(ours, ROWS, [1])
    (theirs,) = ours.runs(["dg/MetaBIN"], [1])
    theirs.write_record(Record({**ours.settings(theirs), "SOLVER.BASE_LR": 1.0}))
    with pytest.raises(ConfigError, match=r"^dg/MetaBIN seed 1 was run with other settings"):
        session.train(ROWS, 1)
    assert (len(calls(tmp_path, "dg/BN")), len(calls(tmp_path, "dg/MetaBIN"))) == (1, 0)


def test_calls_that_write_tables_at_once_lose_no_row(tmp_path: Path) -> None:
    """One waits for the other before it looks which runs have finished."""
    rows = experiments(tmp_path)
    Session(rows, ROWS, [1]).train(["dg/BN"], 1)
    table = command.read_plan().tables["table2"]
    held = Lock(tmp_path / "out" / command.TABLES_LOCK)
    other = threading.Thread(target=command.write_tables, args=(rows, ROWS, [1, 2], [table]))
    other.start()
    other.join(0.5)
    Session(rows, ROWS, [2]).train(["dg/BN"], 1)
    held.release()
    other.join()
    with (tmp_path / "out" / "runs.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["1", "2"]


def tiny_budget(folder: Path, **more: object) -> Path:
    options = tiny_options(folder)
    keys = dict(zip(options[::2], options[1::2], strict=True))
    path = folder / "budget.yml"
    # JSON is YAML.
    path.write_text(json.dumps({"ABOUT": "Tiny.", "dg": {**keys, **more}}))
    return path


# For a training in a process of its own: it waits in the midst of it until it is told to stop, so
# that it cannot be over before.
HOLDING = """
import pathlib, signal, sys, time

folder, log = pathlib.Path(__file__).parent, pathlib.Path({log!r})

def hold(event, given):
    if event != "open" or not str(given[0]).endswith(".png") or (folder / "held").exists():
        return
    if not log.exists() or "Starting training" not in log.read_text():
        return
    told, former = [], signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *of_signal: (told.append(1), former(*of_signal)))
    (folder / "held").touch()
    end = time.monotonic() + 300
    while not told and time.monotonic() < end:
        time.sleep(0.02)
    signal.signal(signal.SIGINT, former)

sys.addaudithook(hold)
"""


def arguments_of(budget: Path, *further: str) -> list[str]:
    fixed = ["--budget", str(budget), "--tables", "2", "--output", str(budget.parent / "tables")]
    return [*fixed, "--seeds", "4", *further]


def call_main(budget: Path, *further: str) -> int:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments_of(budget, *further))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def results(run: Run) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(run.results.read_text())
    return found


@pytest.mark.slow
def test_rows_are_trained_and_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    budget = tiny_budget(tmp_path)
    rows = ("--rows", "dg/BN", "dg/MetaBIN")
    assert call_main(budget, "--jobs", "2", *rows) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    folders = {row: tmp_path / "tables" / row / "seed4" for row in ("dg/BN", "dg/MetaBIN")}
    for row, folder in folders.items():
        run = Run(row, 4, folder)
        record = run.record()
        assert record is not None
        assert record.finished
        assert record.resident_mib > 100
        (metrics,) = results(run).values()
        assert f"Rank-1 {metrics['Rank-1']:.1f}, mAP {metrics['mAP']:.1f}" in printed.out
        config = (folder / "config.yaml").read_text()
        assert "SEED: 4" in config
        assert f"NORM: {'BN' if row == 'dg/BN' else 'BIN'}" in config
    written = {row: (folder / "model_final.pth").stat() for row, folder in folders.items()}
    table = (tmp_path / "tables" / "table2.md").read_text()
    assert table in printed.out

    (tmp_path / "tables" / "table2.md").unlink()
    assert call_main(budget, "--report") == 0
    assert (tmp_path / "tables" / "table2.md").read_text() == table
    assert call_main(budget, *rows) == 0
    assert "2 runs, 2 of them finished before\n" in capfd.readouterr().out
    assert written == {row: (f / "model_final.pth").stat() for row, f in folders.items()}

    changed = tiny_budget(tmp_path, **{"SOLVER.BASE_LR": 0.02})
    assert call_main(changed, *rows) == 1
    error = capfd.readouterr().err
    sentence = r"error: dg/BN seed 4 was run with .*SOLVER\.BASE_LR: 0\.01 -> 0\.02.*\n"
    assert re.fullmatch(sentence, error)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    budget = tiny_budget(tmp_path)
    rows = ("--rows", "dg/BN", "dg/MetaBIN")
    folder = tmp_path / "tables" / "dg" / "BN" / "seed4"
    startup = tmp_path / "startup"
    startup.mkdir()
    # Python imports it when it starts.
    (startup / "sitecustomize.py").write_text(HOLDING.format(log=str(folder / "log.txt")))
    paths = filter(None, [str(startup), os.environ.get("PYTHONPATH")])
    process = subprocess.Popen(
        [sys.executable, str(RUN), *arguments_of(budget, *rows)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (startup / "held").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "dg/BN seed 4: stopped\n" in out
    assert err == "stopped; the same command goes on\n"
    assert not (tmp_path / "tables" / "dg" / "MetaBIN").exists()
    record = Run("dg/BN", 4, folder).record()
    assert record is not None
    assert (record.finished, record.seconds > 1) == (False, True)
    checkpoint = folder / (folder / "last_checkpoint").read_text().strip()
    assert checkpoint.exists()

    assert call_main(budget, "--rows", "dg/BN") == 0
    assert f"Loading checkpoint from {checkpoint}" in (folder / "run.log").read_text()
    again = Run("dg/BN", 4, folder).record()
    assert again is not None
    assert again.finished
    assert again.seconds > record.seconds


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tables", "9"], "error: --tables names '9'; choose from table2, table3"),
        (
            ["--tables", "2", "--rows", "dg/IN"],
            "error: --rows names dg/IN, which the chosen tables do not have; choose from dg/BN, ",
        ),
        (["--budget", "absent.yml"], "error: --budget absent.yml cannot be read"),
        (["--output", "/dev/null/out"], "error: /dev/null/out/"),
    ],
)
def test_mistakes_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    budget = tmp_path / "budget.yml"
    budget.write_text("dg: {}")
    with pytest.raises(SystemExit, match="1"):
        command.main(["--budget", str(budget), "--output", str(tmp_path / "out"), *arguments])
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_seed_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    budget = tmp_path / "budget.yml"
    budget.write_text("dg: {}")
    output = tmp_path / "out"
    run = Run("dg/BN", 1, output / "dg" / "BN" / "seed1")
    settings = Experiments(output, Budget("", {"dg": {}}), {}).settings(run)
    run.write_record(Record(settings, finished=True))
    run.results.write_text(json.dumps({"T": {"Rank-1": 10, "mAP": 50}}))
    words = ["--budget", str(budget), "--output", str(output), "--report", "--tables", "2"]
    with pytest.raises(SystemExit, match="0"):
        command.main([*words, "--seeds", "1", "2", "1"])
    with (output / "table2.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["seeds"], first["rank1_std"]) == ("1", "")


def test_a_record_outlives_the_command(tmp_path: Path) -> None:
    run = Run("dg/BN", 1, tmp_path / "new" / "folder")
    run.write_record(Record({"A": [1, 2], "B": "x"}))
    assert run.record() == Record({"A": [1, 2], "B": "x"})
    assert not run.is_finished()
