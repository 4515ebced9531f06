"""Workers that inherit nothing of a script that registers the plugin under its guard."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metabin_plugin.workers import worker_context
from tests.campaigns import EXHAUSTIVE

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "spawning_script.py"


@pytest.mark.slow
# Each process imports for seconds, and every loader starts its workers in the same way.
@pytest.mark.parametrize(
    ("method", "processes", "readers"),
    [("forkserver", 1, ["test", "check"]), ("spawn", 2, ["train"])],
)
def test_workers_have_the_plugin(
    method: str, processes: int, readers: list[str], tmp_path: Path
) -> None:
    expected = {
        "train": [f"train {12 // processes}"] * processes,
        "test": [f"test 4 {16 // processes}"] * processes,
        "check": ["check 16"],
    }
    if EXHAUSTIVE:
        readers = list(expected)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), method, str(tmp_path), str(processes), *readers],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.split()[0] in expected]
    assert sorted(lines) == sorted(line for reader in readers for line in expected[reader])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_are_started_as_the_script_chose_and_by_rule(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [None, method]
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: chosen.pop())
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: [method, "other"])
    original = multiprocessing.get_context(method)
    kind = original.Process
    assert worker_context(0) is None
    for _ in range(2):
        context: Any = worker_context(2)
        assert context.get_start_method() == method
        assert issubclass(context.Process, kind)
    # Those of everybody else are left alone.
    assert multiprocessing.get_context(method).Process is kind


def test_asking_chooses_no_start_method() -> None:
    code = (
        "import multiprocessing; from metabin_plugin.workers import worker_context; "
        "worker_context(2); assert multiprocessing.get_start_method(allow_none=True) is None"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
