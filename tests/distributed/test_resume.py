"""Two ranks that are interrupted and resumed end where two uninterrupted ones do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from metabin_plugin.errors import RunFolderError, WeightsError
from tests.distributed.processes import run_ranks
from tests.engine.noisy_run import noisy_options, noisy_trainer
from tests.engine.test_resume import difference, outcome

OPTIONS = {
    # Each rank needs two identities of a domain for its own hard negatives.
    "SOLVER__IMS_PER_BATCH": 24,
    "SOLVER__CHECKPOINT_KEEP": 0,
    "SOLVER__MAX_EPOCH": 2,
}


def train(_rank: int, options: list[str], resume: bool) -> None:
    """Train in this rank."""
    noisy_trainer(options, resume).train()


def refusal(_rank: int, options: list[str]) -> str:
    """What a training in this rank is refused with."""
    with pytest.raises(RunFolderError) as caught:
        noisy_trainer(options).train()
    return str(caught.value)


@pytest.mark.slow
def test_all_ranks_leave_a_folder_that_holds_another_run(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model_final.pth").write_text("another run's")
    options = noisy_options(tmp_path, **OPTIONS)
    first, second = run_ranks(tmp_path / "ranks", 2, refusal, options)
    assert first == second
    assert "holds a run already (model_final.pth)" in first
    (tmp_path / "out" / "model_final.pth").rename(tmp_path / "model_final.pth")
    (tmp_path / "out" / "last_checkpoint").symlink_to(tmp_path / "model_final.pth")
    first, second = run_ranks(tmp_path / "more", 2, refusal, options)
    assert first == second
    assert "is a link" in first


def resume_apart(rank: int, options: list[str], folders: list[str]) -> str:
    """What a resume in this rank is refused with, where each has a folder of its own."""
    with pytest.raises(WeightsError) as caught:
        noisy_trainer([*options, "OUTPUT_DIR", folders[rank]], resume=True)
    return str(caught.value)


@pytest.mark.slow
def test_ranks_that_would_go_on_from_different_places_are_refused(tmp_path: Path) -> None:
    """As on two machines without a folder in common."""
    options = noisy_options(tmp_path, **OPTIONS)
    run_ranks(tmp_path / "first", 2, train, options, False)
    (tmp_path / "empty").mkdir()
    folders = [str(tmp_path / "out"), str(tmp_path / "empty")]
    for sentence in run_ranks(tmp_path / "second", 2, resume_apart, options, folders):
        assert "in rank 0 from model_final.pth, in rank 1 from no checkpoint" in sentence


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"METABIN__SYNC_STATS": True},
        {"METABIN__SYNC_STATS": True, "METABIN__AVERAGE__DECAY": 0.7},
        {"METABIN__MIXSTYLE__PROBABILITY": 0.5, "METABIN__MIXSTYLE__LAYERS": ["3"]},
        {"DATALOADER__SAMPLER_TRAIN": "GraphSampler", "METABIN__GRAPH_SAMPLER__PERIOD": 3},
    ],
    ids=["apart", "synchronized", "averaged", "MixStyle", "graph sampler"],
)
def test_two_ranks_go_on_exactly(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder, resumed = tmp_path / "straight", tmp_path / "resumed"
    options = noisy_options(tmp_path, **changes, **OPTIONS)
    run_ranks(tmp_path / "first", 2, train, [*options, "OUTPUT_DIR", str(folder)], False)
    resumed.mkdir()
    for file in ("model_iter_0000004.pth", "metrics.json"):
        shutil.copy(folder / file, resumed / file)
    (resumed / "last_checkpoint").write_text("model_iter_0000004.pth")
    run_ranks(tmp_path / "second", 2, train, [*options, "OUTPUT_DIR", str(resumed)], True)
    assert difference(outcome(folder), outcome(resumed)) == ""
