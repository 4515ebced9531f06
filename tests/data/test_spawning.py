"""Workers that inherit nothing of a script that registers the plugin under its guard."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metabin_plugin.spawning import worker_context

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "spawning_script.py"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "processes"), [("forkserver", 1), ("spawn", 2)])
def test_workers_have_the_plugin(method: str, processes: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), method, str(tmp_path), str(processes)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.split()[0] in ("train", "test")]
    assert sorted(lines) == sorted(
        [f"train {12 // processes}", f"test 4 {16 // processes}"] * processes
    )
    assert done.stdout.splitlines()[-1] == "check 16"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_only_workers_that_inherit_nothing_have_a_context(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [None, "fork", method, method]
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: chosen.pop())
    original = multiprocessing.get_context(method)
    assert worker_context(0) is None
    context = worker_context(2)
    assert context is not None and context.Process is not original.Process
    assert multiprocessing.get_context(method).Process is original.Process
    assert worker_context(2) is None
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: [method, "fork"])
    # On another system, or with a later Python.
    assert worker_context(2) is not None


def test_asking_chooses_no_start_method() -> None:
    code = (
        "import multiprocessing; from metabin_plugin.spawning import worker_context; "
        "worker_context(2); assert multiprocessing.get_start_method(allow_none=True) is None"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
