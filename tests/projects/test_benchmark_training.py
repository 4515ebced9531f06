"""The benchmarks of whole networks, on sizes of a second."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import inference, load, step, training_memory
from benchmarks.training import (
    ARMS,
    BASE,
    BATCH_NORM,
    DATA,
    META,
    METABIN,
    read_setting,
    trainings,
    write_domains,
)
from metabin_plugin.norm import gate_parameters
from tests.processes import fork_what_is_spawned, run_script

TOOL = "tools/benchmark.py"
# Compiling would take most of the time.
TINY = ["--backbone", "resnet18", "--size", "32x16", "--batch", "20", "--form", "plain"]
TINY += ["--device", "cpu"]

pytestmark = pytest.mark.slow


def arguments(benchmark: ModuleType, words: str = "") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    return parser.parse_args([*TINY, *words.split()])


def values(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def test_iterations_train_what_they_should_and_time_their_parts() -> None:
    setting = read_setting(arguments(step))
    with trainings([setting]) as started:
        before = {arm: values(one.trainer.model) for arm, one in started.items()}
        for _ in range(2):
            for arm in ARMS:
                started[arm].iterate()
        for arm, one in started.items():
            model = one.trainer.model
            after, gates = values(model), {f"backbone.{n}" for n in gate_parameters(model.backbone)}
            moved = {n for n in after if not torch.equal(after[n], before[arm][n])}
            assert bool(gates) == bool(gates & moved) == (arm == METABIN)
            assert "backbone.conv1.weight" in moved
            batches = one._batches.batches
            assert batches.position == (4 if arm == METABIN else 2)
            assert one.trainer.iter == 2
            # Whichever step waits for data, its waiting is counted as that.
            assert one.trainer.base_batches is one._batches
            assert all(len(times) == 2 and min(times) > 0 for times in one.parts.values())
    assert type(started[BATCH_NORM].trainer.model).__name__ == "Baseline"


def test_step_reports_both_and_their_parts() -> None:
    report = step.run(arguments(step, "--repetitions 2 --warmups 1"))
    names = [arm.name for arm in report.arms]
    assert names[0] == BATCH_NORM and METABIN in names and f"{METABIN}: {META}" in names
    assert f"{BATCH_NORM}: {META}" not in names
    assert all(len(arm.seconds) == 2 for arm in report.arms)
    rows = {arm.name: arm.seconds for arm in report.arms}
    for run in range(2):
        parts = [rows[f"{METABIN}: {part}"][run] for part in (DATA, BASE, META)]
        # No second is counted in two of them.
        assert 0 < sum(parts) <= rows[METABIN][run]


def test_step_measures_options_on_and_off() -> None:
    words = "--repetitions 1 --warmups 0 --off-too --channels-last"
    report = step.run(arguments(step, words))
    names = [arm.name for arm in report.arms if ":" not in arm.name]
    assert names == [*ARMS, *(f"{arm}, channels_last" for arm in ARMS)]
    seconds = {arm.name: arm.seconds[0] for arm in report.arms}
    ratio = seconds[f"{METABIN}, channels_last"] / seconds[f"{BATCH_NORM}, channels_last"]
    assert (
        f"{METABIN}, channels_last: {ratio:.2f} times {BATCH_NORM}, channels_last" in report.text()
    )


def test_options_reach_the_config() -> None:
    words = "--amp --channels-last METABIN.NUM_META_TRAIN 2"
    setting = read_setting(arguments(step, words))
    with trainings([setting], [METABIN]) as started:
        (one,) = started.values()
        cfg = one.trainer.cfg
    assert list(started) == ["MetaBIN, channels_last, amp"]
    assert cfg.SOLVER.AMP.ENABLED and cfg.METABIN.CHANNELS_LAST
    assert cfg.METABIN.NORM_FORM == "plain"
    assert cfg.METABIN.NUM_META_TRAIN == 2 and not cfg.METABIN.COMPILE
    assert cfg.DATALOADER.NUM_WORKERS == 0
    assert cfg.INPUT.SIZE_TRAIN == [32, 16] and cfg.SOLVER.IMS_PER_BATCH == 20


def test_networks_for_inference_agree_where_they_should() -> None:
    setting = read_setting(arguments(inference))
    # Larger than the other tests': variances of the two values of a 2x1 map amplify rounding.
    images = 255 * torch.rand(8, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    networks = inference.build_networks(setting, 1.0, images)
    with torch.no_grad():
        features = {name: network({"images": images}) for name, network in networks.items()}
    names = list(networks)
    assert len(names) == 6 and names[0] == BATCH_NORM
    for name, folded in zip(names[::2], names[1::2], strict=True):
        assert folded == f"{name}, folded"
        torch.testing.assert_close(features[folded], features[name], rtol=1e-3, atol=1e-3)
        assert not any(
            isinstance(layer, nn.BatchNorm2d)
            for layer in networks[folded].get_submodule("backbone").modules()
        )
        # Running statistics are no longer those of a new layer.
        assert networks[name].get_submodule("backbone.bn1").running_mean.abs().max() > 0
    (opened, *_), (closed, *_) = (
        gate_parameters(networks[name]).values() for name in (names[2], names[4])
    )
    assert (opened < 1).all() and (closed == 1).all()
    assert all(torch.isfinite(value).all() and value.std() > 0 for value in features.values())


def test_inference_reports_six_arms() -> None:
    report = inference.run(arguments(inference, "--repetitions 1 --open 0.5"))
    assert report.arms[0].name == BATCH_NORM and len(report.arms) == 6
    assert report.arms[2].name == f"{METABIN}, 50% of the gates open"


def test_load_reports_every_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--repetitions 1 --batches 2 --iterations 1 --max-workers 1"
    monkeypatch.setattr(load, "time_once", lambda run, calls: [run() for _ in range(calls)] and 0.1)
    result = load.run(arguments(load, f"{words} --gpu-images-per-second 300"))
    rates: Any = result.cases[0].values
    assert list(rates) == [load.TRAINING, "loader, 0 worker(s)", "loader, 1 worker(s)"]
    assert rates["loader, 1 worker(s)"] == [pytest.approx(20 / 0.1)]
    # Twice 300 at 200 a worker.
    assert "that is 3 workers" in result.notes[-1]


def test_memory_runs_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    words = ["memory", "--json", file, "--iterations", "1", *TINY]
    done = run_script(TOOL, *words, before=fork_what_is_spawned)
    assert done.returncode == 0, done.stderr
    written = json.loads(file.read_text())
    peaks = [arm["peak_bytes"] for arm in written["arms"]]
    assert [arm["name"] for arm in written["arms"]] == list(ARMS)
    assert all(2**27 < peak < 2**33 for peak in peaks)
    assert training_memory.__doc__ and "| ratio" in done.stdout


def test_files_are_images_of_five_domains(tmp_path: Path) -> None:
    from PIL import Image

    manifests = write_domains(tmp_path, (16, 8))
    assert len(manifests) == 5
    files = sorted(tmp_path.glob("*.jpg"))
    assert len(files) == 5 * 16 * 4
    with Image.open(files[0]) as image:
        assert image.size == (8, 16)


def test_a_wrong_option_is_one_sentence() -> None:
    done = run_script(TOOL, "step", *TINY, "METABIN.NO_KEY", "1")
    assert done.returncode == 1
    assert "METABIN.NO_KEY" in done.stderr and "Traceback" not in done.stderr
