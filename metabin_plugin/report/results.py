"""Results of runs: from their files to a table over methods and seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from metabin_plugin.report.files import write_table

METRICS = ("Rank-1", "Rank-5", "Rank-10", "mAP")
AVERAGE = "average"

# Metric by name, by target.
Results = dict[str, dict[str, float]]


def read_results(folder: Path) -> Results:
    """The last evaluation of a run.

    Args:
        folder: the run's ``OUTPUT_DIR``.

    Returns:
        For each target its metrics in percent.
    """
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def with_average(results: Results) -> Results:
    """The results with one more entry, the mean over the targets."""
    average = {m: statistics.fmean(r[m] for r in results.values()) for m in METRICS}
    return {**results, AVERAGE: average}


def results_table(runs: Mapping[str, Sequence[Results]]) -> str:
    """Markdown table of methods by target and metric, means over the runs of a method.

    Args:
        runs: for each method the results of its runs, all over the same targets.

    Returns:
        One row for each target and method, the average over the targets last, with the sample
        standard deviation over the runs where there are several.
    """
    averaged = {method: list(map(with_average, results)) for method, results in runs.items()}
    targets = next(iter(averaged.values()))[0]
    rows = [
        [target.removeprefix("DG_"), method, *_cells([run[target] for run in results])]
        for target in targets
        for method, results in averaged.items()
    ]
    numbers = ("right",) * len(METRICS)
    return tabulate(
        rows,
        headers=["Target", "Method", *METRICS],
        tablefmt="pipe",
        colalign=("left", "left", *numbers),
        disable_numparse=True,
    )


def write_csv(runs: Mapping[str, Mapping[int, Results]], path: Path) -> None:
    """Write the numbers behind :func:`results_table`.

    Args:
        runs: for each method and seed the results.
        path: the file.
    """
    write_table(path, ["method", "seed", "target", *METRICS], _lines(runs))


def _lines(runs: Mapping[str, Mapping[int, Results]]) -> Iterator[list[object]]:
    for method, seeds in runs.items():
        for seed, results in seeds.items():
            for target, values in with_average(results).items():
                yield [method, seed, target, *(values[m] for m in METRICS)]


def _cells(runs: Sequence[Mapping[str, float]]) -> list[str]:
    return [_cell([run[metric] for run in runs]) for metric in METRICS]


def _cell(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
