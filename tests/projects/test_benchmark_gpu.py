"""The benchmark of a GPU, tried without one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.parts import Part, run_parts
from benchmarks.training import BATCH_NORM, METABIN
from tests.processes import ROOT, run_script
from tests.projects import benchmark_parts

TOOL = ["tools/benchmark.py", "gpu"]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    # It may end between the opening and the reading.
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_part_that_hangs_dies_or_fails_leaves_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the time of a part is not spent on imports, which take long on a busy machine.
    forks = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _method: forks)
    file, child = tmp_path / "rows.json", tmp_path / "child"
    run_parts(
        [
            Part("first", benchmark_parts.good, 60.0, (1.5,)),
            Part("failing", benchmark_parts.failing, 1.0),
            Part("dying", benchmark_parts.dying, 1.0),
            # What the first left is its, too; it has to be over some time.
            Part("last", benchmark_parts.good, 1.0, (2.5,)),
        ],
        file,
    )
    run_parts(
        [
            Part("hanging", benchmark_parts.hanging, 10.0, (child,)),
            Part("after it", benchmark_parts.good, 60.0, (3.5,)),
        ],
        file,
    )
    found = [(line["part"], line["row"]) for line in lines(file)]
    assert found == [
        ("first", "measured"),
        ("first", "finished"),
        ("failing", "failed"),
        ("failing", "finished"),
        ("dying", "before it dies"),
        ("dying", "ended"),
        ("last", "measured"),
        ("last", "finished"),
        ("hanging", "before it hangs"),
        ("hanging", "ended"),
        ("after it", "measured"),
        ("after it", "finished"),
    ]
    by_row = {(line["part"], line["row"]): line for line in lines(file)}
    assert by_row["failing", "failed"]["error"] == "RuntimeError: CUDA error: an illegal address"
    assert by_row["dying", "ended"]["reason"] == f"exit code {-signal.SIGSEGV}"
    assert "its time was over" in by_row["hanging", "ended"]["reason"]
    # So is what it had started.
    assert eventually(lambda: not is_alive(int(child.read_text())))
    assert capfd.readouterr().out.splitlines()[0] == "first | measured | value 1.5"


def test_what_was_measured_is_there_when_all_is_killed(tmp_path: Path) -> None:
    rows, child = tmp_path / "rows.json", tmp_path / "child"
    script = [sys.executable, "-m", "tests.projects.benchmark_parts", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'projects' / 'Benchmarks'}"}
    with subprocess.Popen(script, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as running:
        assert eventually(lambda: rows.is_file() and "hangs" in rows.read_text())
        running.kill()
    assert [line["row"] for line in lines(rows)] == ["measured", "finished", "before it hangs"]
    assert eventually(lambda: not is_alive(int(child.read_text())))


@pytest.mark.slow
@pytest.mark.parametrize("is_there", [False, True], ids=["no GPU", "a folder"])
def test_what_cannot_be_measured_is_said_at_once(tmp_path: Path, is_there: bool) -> None:
    words = ["--device", "cpu", "--json", str(tmp_path)] if is_there else ["--device", "cuda"]
    done = run_script(*TOOL, *words, settings={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1
    assert done.stderr.startswith("error: --json" if is_there else "error: --device cuda: PyTorch")
    assert "Traceback" not in done.stderr


def test_what_the_profiler_itself_waits_for_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def event(name: str, start: float, end: float, device: str = "CPU") -> SimpleNamespace:
        kind = getattr(torch.autograd.DeviceType, device)
        time_range = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        return SimpleNamespace(name=name, device_type=kind, time_range=time_range)

    events = [
        event(gpu._MEASURED, 10, 90),
        *(event("cudaLaunchKernel", at, at + 1) for at in (20, 30)),
        event("cudaStreamSynchronize", 40, 60),
        event("cudaDeviceSynchronize", 95, 99),
        event("some kernel", 25, 28, "CUDA"),
        # The device is behind.
        event("another kernel", 92, 94, "CUDA"),
        event("Memcpy DtoH (Device -> Pinned)", 50, 51, "CUDA"),
        event(gpu._MEASURED, 25, 94, "CUDA"),
    ]
    profiler = SimpleNamespace(events=lambda: events)
    monkeypatch.setattr(torch.profiler, "profile", lambda **_: nullcontext(profiler))
    assert gpu._profiled(lambda: None) == {
        "kernels": 3,
        "kernels_ms": pytest.approx(0.006),
        "launches": 2,
        "graph_launches": 0,
        "waits": 1,
        "copies_to_host": 1,
    }


@pytest.mark.slow
def test_every_part_measures_on_a_cpu(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    # Compiling takes minutes.
    parts = ["versions", "parity", "iterations", "layer", "launches", "inference", "resume"]
    parts += ["loader"]
    words = ["--device", "cpu", "--size", "32x16", "--batch", "20", "--networks", "resnet18"]
    words += ["--json", str(file), "--parts", *parts, "--seconds", "2400"]
    done = run_script(*TOOL, *words, before=benchmark_parts.few_and_forked)
    assert done.returncode == 0, done.stderr
    found = {(line["part"].split()[0], line["row"]): line for line in lines(file)}
    assert {part for part, row in found if row == "finished"} == set(parts)
    assert not [row for row in found if row[1] in ("ended", "failed")]
    for what in ("gates", "state"):
        row = found["parity", f"3 iterations in float64: {what}"]
        assert row["holds"] and row["difference"] < 1e-9 < 1e-4 < row["moved"]
    # Which of two short times is longer is a matter of what else the machine does.
    name = "contiguous, graphs off"
    times = [found["iterations", f"{name}, {arm}"]["ms"] for arm in (BATCH_NORM, METABIN)]
    (ratio,) = [v for (_, row), v in found.items() if row.startswith(f"{name}: ")]
    assert min(times) > 0 and ratio["time"] == pytest.approx(times[1] / times[0])
    resume = found["resume", "resume"]
    assert found["resume", "stop"]["iteration"] == resume["from_iteration"] == 3
    assert resume["bit_for_bit"] is True
    layer = found["layer", "20,96,8,4 contiguous float32, called"]
    assert layer["bn_ms"] > 0 and layer["bin"] > 0 and layer["mix"] > 0
    assert found["loader", "training loader"]["images_per_second"] > 0
