"""The benchmarks, on sizes of a second."""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu, measuring, rank
from benchmarks import rank as retrieval_data
from benchmarks.measuring import times_in_turns
from benchmarks.parts import Rows
from benchmarks.report import Arm, Case, Comparison, Report, Results, to_json
from tests.processes import fork_what_is_spawned, run_script

MIB = 2**20


def test_arms_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    arms = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = times_in_turns(arms, 3)
    assert "".join(calls) == "ab" + "ababab"
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_a_time_is_the_mean_of_the_calls_and_warm_ups_are_not_measured() -> None:
    clock = [0.0]
    durations = iter([10.0] * 4 + [1.0, 2.0, 3.0, 4.0])

    def work() -> None:
        clock[0] += next(durations)

    seconds = times_in_turns({"a": work}, 2, warmups=2, calls=2, clock=lambda: clock[0])
    assert seconds == {"a": [1.5, 3.5]}


def test_peak_memory_is_that_of_the_function_and_not_of_who_asks() -> None:
    # More than PyTorch takes with its libraries for GPUs.
    here = np.ones(800 * MIB, dtype=np.uint8)
    _, little = measuring.measure_apart(eval, "len(b'x' * 2**20)")
    returned, much = measuring.measure_apart(eval, "len(b'x' * 151 * 2**20)")
    assert returned == 151 * MIB
    assert 140 * MIB < much - little < 160 * MIB
    # This process has imported all that the other one has.
    assert measuring.peak() > here.nbytes + little


def test_the_cores_are_those_that_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, asked = tmp_path / "rows.json", []
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5, 7}, raising=False)
    monkeypatch.setattr(gpu, "training_config", lambda setting, *_: asked.append(setting.workers))
    images = (number for number in itertools.count())
    monkeypatch.setattr(gpu.MetaBINTrainer, "build_train_loader", lambda _cfg: images)
    work = gpu.Work("cpu", (8, 4), 2, (), tmp_path)
    gpu.versions(Rows("versions", file), work, ["resnet18"])
    gpu.loader(Rows("loader", file), work, ["resnet18"])
    found = [json.loads(line) for line in file.read_text().splitlines()]
    by_row = {line["row"]: line for line in found}
    assert by_row["machine"]["cores"] == 3
    assert ", 3 cores, " in by_row["machine"]["description"]
    # One is left for the training.
    assert asked == [2] and by_row["training loader"]["workers"] == 2


def test_a_process_that_ends_early_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="_exit ended with exit code 3"):
        measuring.measure_apart(os._exit, 3)


def test_the_table_has_medians_and_ratios_to_the_first_arm() -> None:
    arms = [Arm("ours", [1.0, 4.0, 2.0], 3 * MIB), Arm("theirs", [5.0]), Arm("data", (), MIB)]
    lines = Report("What", arms, ["A note."]).text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:7]]
    assert cells[0] == ["ours", "2.000", "1.000 – 4.000", "3", "1.00", "3"]
    assert cells[1] == ["theirs", "5.000", "5.000 – 5.000", "1", "2.50", ""]
    assert cells[2] == ["data", "", "", "", "", "1"]
    assert lines[-1] == "A note."


def test_without_times_the_ratio_is_that_of_memory() -> None:
    arms = [Arm("theirs", (), 4 * MIB), Arm("ours", (), 5 * MIB)]
    lines = Report("What", arms).text().splitlines()
    assert [cell.strip() for cell in lines[5].split("|")[1:-1]] == ["ours", "5", "1.25"]


def test_a_comparison_has_ratios_of_medians_and_a_weighted_sum() -> None:
    cases = [
        Case("small", {"base": [0.001, 0.003, 0.002], "other": [0.004]}, weight=3),
        Case("large", {"base": [0.01], "other": [0.01]}),
    ]
    result = Comparison("What", "ms", 1e-3, ["base", "other"], cases, summed=True)
    lines = result.text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:7]]
    assert lines[0].startswith("What") and lines[0].endswith("ratios to base)")
    assert cells[0] == ["", "base, ms", "other"]
    assert cells[2:4] == [["small", "2.00", "2.00"], ["large", "10.00", "1.00"]]
    assert cells[4][1:] == ["16.00", f"{22 / 16:.2f}"]
    assert result.ratios("other", "base") == [2.0, 1.0]


def test_results_keep_their_tables_in_text_and_json() -> None:
    parts = [Report(title, [Arm("ours", [1.0])]) for title in ("First", "Second")]
    results = Results(parts, ["A note."])
    text = results.text()
    assert text.index("First") < text.index("Second") < text.index("A note.")
    written = json.loads(to_json(results, "name", "machine"))
    assert [part["title"] for part in written["parts"]] == ["First", "Second"]
    assert (written["benchmark"], written["machine"]) == ("name", "machine")


@pytest.mark.parametrize("size", retrieval_data.SIZES.values(), ids=retrieval_data.SIZES)
def test_labels_are_as_many_as_the_data_set_has(size: retrieval_data.Size) -> None:
    labels = retrieval_data.draw_labels(size, np.random.default_rng(0))
    assert len(labels.query_ids) == len(labels.query_cameras) == size.queries
    assert len(labels.gallery_ids) == len(labels.gallery_cameras) == size.gallery
    assert set(labels.query_ids) == set(range(size.identities))
    assert len(set(zip(labels.query_ids, labels.query_cameras, strict=True))) == size.queries
    assert (labels.gallery_ids == size.identities).sum() == size.distractors
    assert max(labels.query_cameras) == max(labels.gallery_cameras) == size.cameras - 1


def test_rank_reports_every_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    small = retrieval_data.Size("small", 30, 200, 10, 4, 20)
    monkeypatch.setitem(retrieval_data.SIZES, "market", small)
    monkeypatch.setattr(rank, "build_cython", lambda folder: False)
    monkeypatch.setattr(rank, "measure_apart", lambda work, *args: (work(*args), 7))
    args = argparse.Namespace(size="market", repetitions=2, dimension=16)
    report = rank.run(args)
    assert [arm.name for arm in report.arms[:2]] == [rank.OURS, rank.PYTHON]
    assert [len(arm.seconds) for arm in report.arms] == [2, 1, 0]
    assert all(arm.peak_bytes == 7 for arm in report.arms)
    assert "not built" in report.notes[0]


@pytest.mark.slow
def test_a_json_file_that_cannot_be_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    done = run_script("tools/benchmark.py", "rank", "--json", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --json ")


@pytest.mark.slow
def test_eval_runs_from_the_command_line(tmp_path: Path) -> None:
    small = ["INPUT.SIZE_TEST", "[32, 16]", "DATALOADER.NUM_WORKERS", "0"]
    small += ["MODEL.BACKBONE.DEPTH", "1.0x-paper", "MODEL.BACKBONE.FEAT_DIM", "1280"]
    small += ["METABIN.NORM_FORM", "plain"]
    sizes = ["--images", "16", "--splits", "3", "--repetitions", "1"]
    file = tmp_path / "eval.json"
    words = ["tools/benchmark.py", "eval", *sizes, "--json", file, *small]
    done = run_script(*words, before=fork_what_is_spawned)
    assert done.returncode == 0, done.stderr
    assert "| each split alone" in done.stdout
    written = json.loads(file.read_text())
    assert [len(arm["seconds"]) for arm in written["arms"]] == [1, 1]
