"""Ctrl-C and SIGTERM for the tools that take long: how they end, and that they go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from demo_data.generate import is_complete, parameters
from metabin_plugin.repository import RECIPES
from tests.tools.test_crop_cuhk_sysu import release

__all__ = ["release"]

TOOLS = Path(__file__).parents[2] / "tools"

# Stands for a training: it saves on Ctrl-C or SIGTERM, which takes it longer than Python waits for
# a child after a Ctrl-C.
TRAINING = """
    import signal, sys, time
    from pathlib import Path

    def save(number, _frame):
        time.sleep(1.0)
        Path("saved").touch()
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, save)
    # Whole when it is seen: the signal may come at once.
    Path("starting").write_text(" ".join(sys.argv[1:]))
    Path("starting").replace("started")
    time.sleep(600)
"""

# The demo with it in the place of the commands that it runs.
DEMO = """
import sys
import metabin_plugin

metabin_plugin.register()

from metabin_plugin.cli import demo, main

demo.METABIN = (sys.executable, "stand_in.py")
raise SystemExit(main.main("demo"))
"""


def start(folder: Path, *command: str, **environment: str) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a shell starts it."""
    paths = os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    while not any(folder.rglob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_lets_its_training_save_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "stand_in.py").write_text(textwrap.dedent(TRAINING))
    process = start(
        tmp_path, "-c", DEMO, "--resume", "SOLVER.BASE_LR", "1", FASTREID_DATASETS="a b"
    )
    wait_for(tmp_path, "started", process)
    # A terminal's Ctrl-C reaches the whole group, kill the process alone.
    send = os.killpg if number == signal.SIGINT else os.kill
    send(process.pid, number)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert (tmp_path / "saved").exists()
    assert "Traceback" not in error
    assert error.splitlines()[-1] == (
        f"stopped; go on with: FASTREID_DATASETS='a b' {sys.executable} -c --resume "
        "SOLVER.BASE_LR 1"
    )
    arguments = (tmp_path / "started").read_text().split()
    begin = ["train", "--config-file", str(RECIPES / "pretraining-demo.yml"), "--resume"]
    assert arguments[: len(begin)] == begin
    # Behind the demo's own pairs, which they overrule.
    assert arguments[-6:-2] == ["SOLVER.BASE_LR", "1", "METABIN.SEED", "1"]
    assert arguments[-2:] == ["OUTPUT_DIR", "logs/demo/pretraining-seed1"]


@pytest.mark.slow
def test_drawing_the_demo_data_stops_at_once(tmp_path: Path) -> None:
    drawing = [str(TOOLS / "make_demo_data.py"), "--output", "data", "--workers", "2"]
    process = start(tmp_path, *drawing)
    wait_for(tmp_path, "*.png", process)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    # A worker that has not come as far as its initializer may have said more.
    assert error.splitlines()[-1] == "stopped; the same command draws all of it again"
    # So that the same command does not take the folder for finished.
    made = parameters(0, 1.0)
    assert not is_complete(tmp_path / "data", made)


@pytest.mark.slow
def test_a_one_time_tool_goes_on_where_it_stopped(tmp_path: Path, release: Path) -> None:
    # It stops at the second crop.
    stopping = """
        import signal, sys
        import crop_cuhk_sysu
        from metabin_plugin.cli.outcome import run_cli
        from metabin_plugin.data.datasets.cuhk import GO_ON

        write, calls = crop_cuhk_sysu._write, []

        def counting(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGINT)
            write(*arguments)

        crop_cuhk_sysu._write = counting
        with run_cli(GO_ON):
            crop_cuhk_sysu.main(sys.argv[1:])
    """
    arguments = [str(release), str(tmp_path / "datasets")]
    process = start(tmp_path, "-c", textwrap.dedent(stopping), *arguments)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "stopped; the same command goes on where it stopped"
    (first,) = tmp_path.rglob("*_*.jpg")
    made = first.stat().st_mtime_ns
    again = start(tmp_path, str(TOOLS / "crop_cuhk_sysu.py"), *arguments)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0
    assert "5 images" in output
    (first,) = tmp_path.rglob(first.name)
    assert first.stat().st_mtime_ns == made
