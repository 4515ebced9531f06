"""Results of runs: from their files to a table."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from tabulate import tabulate

METRICS = ("Rank-1", "Rank-5", "Rank-10", "mAP")

# Metric by name, by target.
Results = dict[str, dict[str, float]]


def read_results(folder: Path) -> Results:
    """The last evaluation of a run.

    Args:
        folder: the run's ``OUTPUT_DIR``.

    Returns:
        For each target its metrics in percent.
    """
    return json.loads((folder / "results.json").read_text())


def with_average(results: Results) -> Results:
    """The results with one more entry, the mean over the targets."""
    average = {m: sum(r[m] for r in results.values()) / len(results) for m in METRICS}
    return {**results, "average": average}


def results_table(results: Mapping[str, Results]) -> str:
    """Markdown table of methods by target and metric.

    Args:
        results: results of each method, over the same targets.

    Returns:
        One row for each target and method, the average last.
    """
    averaged = {method: with_average(result) for method, result in results.items()}
    targets = next(iter(averaged.values()))
    rows = [
        [target.removeprefix("DG_"), method, *(averaged[method][target][m] for m in METRICS)]
        for target in targets
        for method in averaged
    ]
    return tabulate(rows, headers=["Target", "Method", *METRICS], tablefmt="pipe", floatfmt=".1f")


def write_csv(results: Mapping[str, Results], path: Path) -> None:
    """Write the numbers of :func:`results_table` unrounded."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["target", "method", *METRICS])
        for method, result in results.items():
            for target, values in with_average(result).items():
                writer.writerow([target, method, *(values[m] for m in METRICS)])
