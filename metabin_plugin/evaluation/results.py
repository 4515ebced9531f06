"""Keeping the results of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE_NAME = "results.json"


def write_results(results: Mapping[str, Any], targets: Sequence[str], folder: str) -> None:
    """Write the metrics of every target to ``results.json`` in a folder.

    fastreid's ``metrics.json`` does not hold the evaluation after the last epoch.

    Args:
        results: what ``DefaultTrainer.test`` returns: metrics by target, or those of the only one.
        targets: the targets, ``DATASETS.TESTS``.
        folder: where to write.
    """
    by_target = {targets[0]: results} if len(targets) == 1 else results
    numbers = {
        target: {name: float(value) for name, value in metrics.items()}
        for target, metrics in by_target.items()
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / FILE_NAME).write_text(json.dumps(numbers, indent=1) + "\n")
