"""A run that is killed and resumed ends bit for bit where the uninterrupted one does."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastreid.data.build
import pytest
import torch

from tests.campaigns import tries
from tests.engine.noisy_run import noisy_options, noisy_trainer, train
from tests.processes import start

TIMES = ("time", "data_time", "eta_seconds")


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves: the last and the best checkpoint, the results, the log's scalars."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    checkpoints = {
        name: torch.load(folder / f"{name}.pth", weights_only=True)
        for name in ("model_final", "model_best")
    }
    for checkpoint in checkpoints.values():
        # It names the folder.
        del checkpoint["config"]
    return {
        **checkpoints,
        "results": json.loads((folder / "results.json").read_text()),
        "log": [{k: v for k, v in line.items() if k not in TIMES} for line in lines],
    }


def difference(first: Any, second: Any, where: str = "") -> str:
    """Where two nested values differ in a bit; empty if they don't."""
    if isinstance(first, torch.Tensor):
        return "" if torch.equal(first, second) and first.dtype == second.dtype else where
    if isinstance(first, Mapping):
        if first.keys() != second.keys():
            return f"{where}: {sorted(map(str, first.keys() ^ second.keys()))}"
        pairs: Any = [(first[key], second[key], f"{where}.{key}") for key in first]
    elif isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return f"{where}: {len(first)} and {len(second)}"
        pairs = [
            (a, b, f"{where}[{index}]")
            for index, (a, b) in enumerate(zip(first, second, strict=True))
        ]
    else:
        return "" if first == second else f"{where}: {first} and {second}"
    return next((found for pair in pairs if (found := difference(*pair))), "")


def straight(folder: Path, **changes: Any) -> tuple[list[str], dict[str, Any], float]:
    """Options, outcome and seconds of an uninterrupted run."""
    options = noisy_options(folder, OUTPUT_DIR=folder / "straight", **changes)
    # The first process waits for the server's imports, which are no part of a run.
    start(int).join()
    began = time.monotonic()
    process = start(train, options)
    process.join()
    assert process.exitcode == 0
    return options, outcome(folder / "straight"), time.monotonic() - began


def every_checkpoint_leads_to(expected: dict[str, Any], folder: Path, options: list[str]) -> None:
    """Resume periodic checkpoints of a run, in folders beside the run's.

    One at the end of an epoch and one further on, which is inside an epoch where there are such.
    """
    periodic = sorted(path.stem for path in folder.glob("model_[0i]*.pth"))
    assert len(periodic) >= 3
    for name in periodic[:: tries(len(periodic) // 2, 2)]:
        resumed = folder.parent / name
        resumed.mkdir()
        for file in (f"{name}.pth", "model_best.pth", "metrics.json"):
            shutil.copy(folder / file, resumed / file)
        (resumed / "last_checkpoint").write_text(f"{name}.pth")
        noisy_trainer([*options, "OUTPUT_DIR", str(resumed)], resume=True).train()
        assert difference(expected, outcome(resumed)) == "", name


Uninterrupted = tuple[list[str], dict[str, Any]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """Options and outcome of one run with which others are compared."""
    options, expected, _ = straight(tmp_path_factory.mktemp("uninterrupted"))
    return options, expected


def test_the_same_seed_twice(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    options, expected = uninterrupted
    train([*options, "OUTPUT_DIR", str(tmp_path / "again")])
    assert difference(expected, outcome(tmp_path / "again")) == ""


def test_another_seed_differs(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    options, expected = uninterrupted
    train([*options, "OUTPUT_DIR", str(tmp_path / "other"), "METABIN.SEED", "4"])
    found = outcome(tmp_path / "other")
    assert difference(expected["model_final"]["model"], found["model_final"]["model"])


def test_workers_make_no_difference(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    options, expected = uninterrupted
    train([*options, "OUTPUT_DIR", str(tmp_path / "two"), "DATALOADER.NUM_WORKERS", "2"])
    assert difference(expected, outcome(tmp_path / "two")) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"SOLVER__CHECKPOINT_ITERS": 0, "TEST__EVAL_PERIOD": 1},
        {"DATALOADER__SAMPLER_TRAIN": "NaiveIdentitySampler", "METABIN__IMS_PER_BATCH": 6},
        {"METABIN__SEED": -1, "METABIN__SECOND_ORDER": True, "TEST__EVAL_PERIOD": 3},
        {"SOLVER__AMP__ENABLED": True},
        {"METABIN__BASE_LOSSES": ("Alignment", "Uniformity", "DomainUniformity")},
        {
            "METABIN__BASE_LOSSES": ("InterleavedMemory",),
            "METABIN__INTERLEAVED_MEMORY__LAYERS": ("3",),
            "METABIN__AVERAGE__DECAY": 0.5,
        },
        {
            "METABIN__INNER_DIRECTION": "random",
            "METABIN__OUTER_LOSS": "sum",
            "METABIN__OUTER_LR_WARMUP": True,
            "METABIN__FREEZE_AFTER": 12,
        },
        {"METABIN__AVERAGE__DECAY": 0.7, "TEST__EVAL_PERIOD": 1},
        {"METABIN__AVERAGE__DECAY": 0.7, "METABIN__AVERAGE__OF": "gates"},
        {
            "MODEL__FREEZE_LAYERS": ["backbone"],
            "SOLVER__FREEZE_ITERS": 7,
            "TEST__EVAL_PERIOD": 1,
        },
        {
            "METABIN__AVERAGE__DECAY": 0.7,
            "TEST__PRECISE_BN__ENABLED": True,
            "TEST__PRECISE_BN__NUM_ITER": 2,
            "TEST__PRECISE_BN__DATASET": "source0.csv",
            "DATALOADER__SAMPLER_TRAIN": "TrainingSampler",
            "METABIN__IMS_PER_BATCH": 6,
        },
        {
            "MODEL__HEADS__POOL_LAYER": "GeneralizedMeanPoolingP",
            "INPUT__AUTOAUG__ENABLED": True,
            "INPUT__AUTOAUG__PROB": 0.5,
            "SOLVER__SCHED": "CosineAnnealingLR",
            "DATALOADER__NUM_WORKERS": 2,
        },
        {"METABIN__MIXSTYLE__PROBABILITY": 0.5, "METABIN__MIXSTYLE__LAYERS": ["3"]},
        {
            "METABIN__SEED": -1,
            "DATALOADER__SAMPLER_TRAIN": "GraphSampler",
            "METABIN__GRAPH_SAMPLER__PERIOD": 3,
            "METABIN__GRAPH_SAMPLER__MAX_IDENTITIES": 3,
            "DATALOADER__NUM_WORKERS": 2,
            "SOLVER__MAX_EPOCH": 2,
            "TEST__EVAL_PERIOD": 2,
        },
    ],
    ids=[
        "inside an epoch",
        "at epochs",
        "own meta loader",
        "no seed",
        "bfloat16",
        "BAU",
        "interleaved learning",
        "controls",
        "averaged weights",
        "averaged gates",
        "frozen backbone",
        "precise BN of averaged weights",
        "modern recipe",
        "MixStyle",
        "graph sampler",
    ],
)
def test_every_checkpoint_leads_to_the_same_end(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where fastreid looks for what has no absolute path.
    monkeypatch.setattr(fastreid.data.build, "_root", str(tmp_path))
    folder = tmp_path / "straight"
    options = noisy_options(tmp_path, OUTPUT_DIR=folder, SOLVER__CHECKPOINT_KEEP=0, **changes)
    noisy_trainer(options).train()
    expected = outcome(folder)
    every_checkpoint_leads_to(expected, folder, options)


@pytest.mark.gpu
@pytest.mark.slow
def test_every_checkpoint_on_a_gpu_leads_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What one run replays, dropout included, another does eagerly.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    changes = {"MODEL__DEVICE": "cuda", "CUDNN_BENCHMARK": False}
    options = noisy_options(tmp_path, OUTPUT_DIR=tmp_path / "straight", **changes)
    noisy_trainer(options).train()
    every_checkpoint_leads_to(outcome(tmp_path / "straight"), tmp_path / "straight", options)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_sigkill_at_random_moments(tmp_path: Path, workers: int) -> None:
    options, expected, seconds = straight(tmp_path, DATALOADER__NUM_WORKERS=workers)
    moments = random.Random(workers)
    unfinished, attempt = 0, 0
    while unfinished < tries(3, 10):
        attempt += 1
        folder = tmp_path / f"killed{attempt}"
        killed = start(train, [*options, "OUTPUT_DIR", str(folder)])
        began = time.monotonic()
        killed.join(moments.uniform(0, seconds))
        if killed.exitcode is not None:
            # The machine was busier when the first run was timed.
            seconds = time.monotonic() - began
        killed.kill()
        killed.join()
        unfinished += not (folder / "model_final.pth").exists()
        resumed = start(train, [*options, "OUTPUT_DIR", str(folder)], True)
        resumed.join()
        assert resumed.exitcode == 0
        assert difference(expected, outcome(folder)) == "", attempt
