"""Two ranks that are interrupted and resumed end where two uninterrupted ones do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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


@pytest.mark.slow
@pytest.mark.parametrize("synchronized", [False, True])
def test_two_ranks_go_on_exactly(tmp_path: Path, synchronized: bool) -> None:
    folder, resumed = tmp_path / "straight", tmp_path / "resumed"
    options = noisy_options(tmp_path, METABIN__SYNC_STATS=synchronized, **OPTIONS)
    run_ranks(tmp_path / "first", 2, train, [*options, "OUTPUT_DIR", str(folder)], False)
    resumed.mkdir()
    for file in ("model_iter_0000004.pth", "metrics.json"):
        shutil.copy(folder / file, resumed / file)
    (resumed / "last_checkpoint").write_text("model_iter_0000004.pth")
    run_ranks(tmp_path / "second", 2, train, [*options, "OUTPUT_DIR", str(resumed)], True)
    assert difference(outcome(folder), outcome(resumed)) == ""
