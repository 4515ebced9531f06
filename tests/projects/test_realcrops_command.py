"""The command: which runs are started, by whom, and with what."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from metabin_plugin.errors import ConfigError
from papertables.runs import Run, lock
from realcrops import command
from realcrops.command import CONFIGS, PROJECT, ROOT, Experiments, read_arms
from tests import processes
from tests.engine.tiny_data import tiny_options
from tests.processes import run_script

# Stands for training: notes its command line and environment, waits while it is told to, goes on
# from its checkpoint, and reports.
STUB = """
import json, os, pathlib, sys, time
options = dict(zip(sys.argv[4::2], sys.argv[5::2]))
folder = pathlib.Path(options["OUTPUT_DIR"])
note = [sys.argv[1:], {key: os.environ.get(key) for key in ("OMP_NUM_THREADS",
        "FASTREID_DATASETS", "PYTHONPATH")}]
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(note) + "\\n")
checkpoint = folder / "checkpoint"
# A test that waits for the file finds it whole.
new = folder / "checkpoint.new"
new.write_text(f"{checkpoint.read_text() if checkpoint.exists() else ''}+")
new.replace(checkpoint)
home = folder.parents[1]
while (home / "wait").exists():
    time.sleep(0.02)
metrics = dict.fromkeys(("mAP", "Rank-1", "Rank-5", "Rank-10"), len(checkpoint.read_text()))
(folder / "results.json").write_text(json.dumps({"DG_VIPeR": metrics}))
"""
ARMS = ("BN", "MetaBIN")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A budget, data and weights, and the stub in the place of training."""
    (tmp_path / "stub.py").write_text(STUB)
    (tmp_path / "data").mkdir()
    (tmp_path / "net.pth").touch()
    budget = {"ABOUT": "Tiny.", "dg": {"MODEL": {"DEVICE": "cpu"}, "TEST": {"EVAL_PERIOD": 1}}}
    (tmp_path / "tiny.yml").write_text(json.dumps(budget))
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(command, "BUDGETS", tmp_path)
    monkeypatch.setattr(command, "SCRIPT", tmp_path / "stub.py")
    for key in ("OMP_NUM_THREADS", "FASTREID_DATASETS", "PYTHONPATH"):
        # Restored afterwards, as the command sets them.
        monkeypatch.setenv(key, os.environ.get(key, "0"))
    return tmp_path


def arguments(project: Path, *more: str) -> list[str]:
    fixed = ("--budget", "tiny", "--data", project / "data", "--weights", project / "net.pth")
    return [*map(str, fixed), "--output", str(project / "out"), "--arms", *ARMS, *more]


def call(project: Path, *more: str) -> int:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments(project, *more))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def calls(project: Path, arm: str, seed: int) -> list[tuple[list[str], dict[str, str]]]:
    path = project / "out" / arm / f"seed{seed}" / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_arm_is_run_with_one_seed_before_the_next(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(project, "--seeds", "1", "2") == 0
    started = [line for line in capsys.readouterr().out.splitlines() if "started" in line]
    assert [line.split(":")[0] for line in started] == [
        *("BN seed 1", "MetaBIN seed 1", "BN seed 2", "MetaBIN seed 2"),
    ]
    ((words, environment),) = calls(project, "MetaBIN", 2)
    folder = project / "out" / "MetaBIN" / "seed2"
    assert words == [
        *("--config-file", str(CONFIGS / "MetaBIN.yml"), "--resume"),
        *("MODEL.DEVICE", "cpu", "TEST.EVAL_PERIOD", "1"),
        *("MODEL.BACKBONE.PRETRAIN_PATH", str(project / "net.pth")),
        *("METABIN.SEED", "2", "OUTPUT_DIR", str(folder)),
    ]
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["FASTREID_DATASETS"] == str(project / "data")
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    record = Run("MetaBIN", 2, folder).record()
    assert record is not None
    assert set(record.place) == {"commit", "torch", "processor"}
    assert record.cpu_seconds > 0


def test_finished_runs_are_not_repeated_and_more_arms_and_seeds_join_them(project: Path) -> None:
    assert call(project, "--seeds", "1") == 0
    assert call(project, "--seeds", "1", "2") == 0
    for arm in ARMS:
        assert [len(calls(project, arm, seed)) for seed in (1, 2)] == [1, 1]
    lines = (project / "out" / "tiny.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [
        [arm, seed] for arm in ARMS for seed in "12"
    ]


def call_in_its_own_process(project: Path, words: list[str], output: Path) -> None:
    handle = os.open(output, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(handle, stream)
    command.BUDGETS, command.SCRIPT = project, project / "stub.py"
    command.main(words)


def start(project: Path, *more: str, output: str = "said") -> BaseProcess:
    words = arguments(project, *more)
    return processes.start(call_in_its_own_process, project, words, project / output)


def wait_for(*paths: Path) -> None:
    wait_until(lambda: all(path.exists() for path in paths))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_free(path: Path) -> bool:
    if (held := lock(path)) is not None:
        held.release()
    return held is not None


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(project: Path) -> None:
    (project / "out" / "wait").touch()
    process = start(project, "--seeds", "1")
    wait_for(project / "out" / "BN" / "seed1" / "checkpoint")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(300)
    assert process.exitcode == 128 + signal.SIGTERM
    assert "the same command goes on" in (project / "said").read_text()
    (project / "out" / "wait").unlink()
    assert call(project, "--seeds", "1") == 0
    assert [len(calls(project, arm, 1)) for arm in ARMS] == [2, 1]
    # The checkpoint is of two processes.
    results = json.loads((project / "out" / "BN" / "seed1" / "results.json").read_text())
    assert results["DG_VIPeR"]["mAP"] == 2


def test_a_killed_command_leaves_runs_that_go_on_with_unknown_seconds(project: Path) -> None:
    (project / "out" / "wait").touch()
    process = start(project, "--seeds", "1")
    wait_for(project / "out" / "BN" / "seed1" / "checkpoint")
    process.kill()
    process.join()
    # Its training is still alive and holds its lock until it ends.
    assert not is_free(project / "out" / "BN" / "seed1" / "run.lock")
    (project / "out" / "wait").unlink()
    wait_until(lambda: is_free(project / "out" / "BN" / "seed1" / "run.lock"))
    assert (project / "out" / "BN" / "seed1" / "results.json").exists()
    assert call(project, "--seeds", "1") == 0
    assert [len(calls(project, arm, 1)) for arm in ARMS] == [2, 1]
    lines = (project / "out" / "tiny.csv").read_text().splitlines()
    column = lines[0].split(",").index("CPU seconds")
    assert [bool(line.split(",")[column]) for line in lines[1:]] == [False, True]


def test_two_calls_at_once_share_the_runs(project: Path) -> None:
    (project / "out" / "wait").touch()
    seeds = ("--seeds", "1", "2", "3", "--processes", "2")
    running = {output: start(project, *seeds, output=output) for output in ("first", "second")}
    wait_for(*(project / "out" / arm / "seed1" / "calls" for arm in ARMS))
    time.sleep(1)
    # Two slots in all, not two for each call.
    assert len(list((project / "out").glob("*/seed*/calls"))) == 2
    (project / "out" / "wait").unlink()
    for output, process in running.items():
        process.join(300)
        assert process.exitcode == 0, (project / output).read_text()
    assert all(len(calls(project, arm, seed)) == 1 for arm in ARMS for seed in (1, 2, 3))


def test_a_report_runs_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(project, "--seeds", "1")
    (project / "out" / "tiny.csv").unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        command.main(
            [
                *("--budget", "tiny", "--output", str(project / "out"), "--report"),
                *("--results", str(project / "elsewhere")),
            ]
        )
    text = (project / "elsewhere" / "tiny.md").read_text()
    assert text in capsys.readouterr().out
    assert (project / "elsewhere" / "tiny.csv").read_text().count("\n") == 3
    assert not (project / "out" / "tiny.csv").exists()


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--data", "absent", "error: --data 'absent' does not exist; see projects/RealCrops"),
        ("--weights", "absent", "error: --weights 'absent' does not exist; see projects/RealCrops"),
    ],
)
def test_what_is_missing_is_named_before_anything_runs(
    project: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, sentence: str
) -> None:
    assert call(project, option, value) == 1
    assert capsys.readouterr().err.startswith(sentence)
    assert not (project / "out" / "BN").exists()


def test_what_the_tables_cannot_be_made_of_is_said_before_anything_runs(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(project, "--seeds", "1") == 0
    results = project / "out" / "BN" / "seed1" / "results.json"
    results.write_text("half of")
    assert call(project, "--seeds", "2") == 1
    error = capsys.readouterr().err
    assert error == f"error: the results in {results.parent} are damaged; remove it\n"
    assert calls(project, "BN", 2) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--output", "--results"):
        assert call(project, "--seeds", "1", option, "/dev/null/out") == 1
        error = capsys.readouterr().err
        assert error.startswith("error: /dev/null/out/") and error.count("\n") == 1


def test_a_budget_may_not_change_what_makes_an_arm(project: Path) -> None:
    experiments = Experiments(project, "", {"MODEL.BACKBONE.NORM": "IN"})
    with pytest.raises(ConfigError, match=r"sets MODEL.BACKBONE.NORM, which makes arm 'BN' what"):
        experiments.settings(Run("BN", 1, project))
    own = Experiments(project, "", {}, {"BN": {"MODEL.BACKBONE.NORM": "IN"}})
    with pytest.raises(ConfigError, match=r"sets MODEL.BACKBONE.NORM, which makes arm 'BN' what"):
        own.settings(Run("BN", 1, project))
    # MetaBIN has the norm of configs/MetaBIN.yml, which any budget may change.
    assert experiments.settings(Run("MetaBIN", 1, project))["MODEL.BACKBONE.NORM"] == "IN"


def test_an_arm_may_be_longer_than_the_others(project: Path) -> None:
    arms = {"MetaBIN": {"SOLVER.MAX_EPOCH": 3}}
    experiments = Experiments(project, "", {"SOLVER.MAX_EPOCH": 2}, arms)
    lengths = [
        experiments.settings(Run(arm, 1, project))["SOLVER.MAX_EPOCH"] for arm in ("BN", "MetaBIN")
    ]
    assert lengths == [2, 3]


BUDGETS = sorted((PROJECT / "budgets").glob("*.yml"))


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("arm", read_arms())
def test_every_arm_can_be_run_on_every_budget(budget: Path, arm: str, tmp_path: Path) -> None:
    experiments = Experiments.of_budget(budget.stem, tmp_path, Path("net.pth"))
    settings = experiments.settings(Run(arm, 7, tmp_path / arm))
    assert settings["METABIN.SEED"] == 7
    assert len(settings["DATASETS.NAMES"]) == 5
    # The last iterate counts, and is evaluated once.
    assert settings["TEST.EVAL_PERIOD"] == settings["SOLVER.MAX_EPOCH"]


def test_every_config_is_an_arm() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yml")} == set(read_arms())


@pytest.mark.slow
def test_an_arm_is_trained_reported_trained_once_more_and_drawn(tmp_path: Path) -> None:
    keys = tiny_options(tmp_path)
    options = dict(zip(keys[::2], keys[1::2], strict=True))
    del options["OUTPUT_DIR"]
    experiments = Experiments(tmp_path / "out", "Tiny.", options)
    session = command.Session(experiments, ["MetaBIN"], [4])
    assert session.train(["MetaBIN"], 1, {"commit": "abc"}) == 0
    (result,) = command.read_results(tmp_path / "out", [])
    assert (result.arm, result.seed, result.place) == ("MetaBIN", 4, {"commit": "abc"})
    assert 0 <= result.value("average", "mAP") <= 100
    assert result.cpu_seconds is not None and result.cpu_seconds > 1

    # As the README draws Fig. 4 and 5.
    folder, again = tmp_path / "out" / "MetaBIN" / "seed4", tmp_path / "figures"
    keep = ("SOLVER.CHECKPOINT_KEEP", "0", "SOLVER.CHECKPOINT_PERIOD", "1")
    run = ("--config-file", str(folder / "config.yaml"), *keep, "OUTPUT_DIR", str(again))
    assert run_script(ROOT / "tools" / "train_net.py", *run).returncode == 0
    first, second = (
        torch.load(path / "model_final.pth", weights_only=True)["model"] for path in (folder, again)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    figures = {
        "plot_gates.py": (folder / "model_final.pth", again / "model_final.pth"),
        "plot_gate_gradients.py": (*sorted(again.glob("model_00*.pth")), "--batches", "1"),
    }
    for script, words in figures.items():
        figure = tmp_path / f"{script}.png"
        ended = run_script(ROOT / "tools" / script, *words, "--output", figure)
        assert ended.returncode == 0, ended.stderr
        assert figure.exists()
