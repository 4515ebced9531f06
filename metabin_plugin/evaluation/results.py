"""Keeping the results of an evaluation."""

from __future__ import annotations

import csv
import io
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metabin_plugin.files import replace_file
from metabin_plugin.text import as_cell

STD_SUFFIX = "_std"


class SplitResults(OrderedDict[str, float]):
    """Mean of each metric over the splits under its name, and its deviation under ``<name>_std``.

    It is as flat as fastreid's table and event storage want it.

    Attributes:
        splits: the metrics of each split.
    """

    splits: Sequence[Mapping[str, float]] = ()

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each metric."""
        return {name: self[name] for name in self.splits[0]}

    @property
    def std(self) -> dict[str, float]:
        """Sample standard deviation (n - 1) of each metric."""
        return {name: self[name + STD_SUFFIX] for name in self.splits[0]}


def over_splits(splits: Sequence[Mapping[str, float]]) -> SplitResults:
    """Summarize the metrics of at least two splits."""
    names = list(splits[0])
    values = {name: np.array([float(split[name]) for split in splits]) for name in names}
    results = SplitResults((name, float(values[name].mean())) for name in names)
    results.update((name + STD_SUFFIX, float(values[name].std(ddof=1))) for name in names)
    results.splits = splits
    return results


JSON_NAME = "results.json"
CSV_NAME = "results.csv"


def write_results(results: Mapping[str, Any], targets: Sequence[str], folder: str) -> None:
    """Write the metrics of every target to ``results.json`` and ``results.csv`` in a folder.

    fastreid's ``metrics.json`` does not hold the evaluation after the last epoch. In the JSON file
    a target has its metrics by name; where it has several splits they are the means, and beside
    them are ``"std"``, the sample standard deviations, and ``"splits"``, a list with the metrics of
    each split. In the CSV file it has the line ``mean``, and then the lines ``std``, ``0``, ``1``
    and so on. Beside the metrics are the numbers of queries that were scored and left out, see
    ``score``; they have a mean and a deviation as the metrics do.

    Args:
        results: what ``DefaultTrainer.test`` returns: metrics by target, or those of the only one.
        targets: the targets, ``DATASETS.TESTS``.
        folder: where to write.
    """
    by_target = {targets[0]: results} if len(set(targets)) == 1 else results
    Path(folder).mkdir(parents=True, exist_ok=True)
    _write(Path(folder) / JSON_NAME, _json(by_target))
    _write(Path(folder) / CSV_NAME, _csv(by_target))


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda file: file.write(text.encode()))


def _json(by_target: Mapping[str, Mapping[str, float]]) -> str:
    numbers: dict[str, dict[str, Any]] = {}
    for target, metrics in by_target.items():
        rows = dict(_rows(metrics))
        numbers[target] = dict(rows["mean"])
        if isinstance(metrics, SplitResults):
            splits = [rows[str(split)] for split in range(len(metrics.splits))]
            numbers[target].update(std=rows["std"], splits=splits)
    return json.dumps(numbers, indent=1) + "\n"


def _csv(by_target: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        {"target": as_cell(target), "split": split, **values}
        for target, metrics in by_target.items()
        for split, values in _rows(metrics)
    ]
    columns = dict.fromkeys(["target", "split"])
    for row in rows:
        columns.update(dict.fromkeys(row))
    file = io.StringIO()
    writer = csv.DictWriter(file, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _rows(metrics: Mapping[str, float]) -> Iterator[tuple[str, dict[str, float]]]:
    """Name and metrics of each line of a target: mean, and where there are splits std and they."""
    if not isinstance(metrics, SplitResults):
        yield "mean", _numbers(metrics)
        return
    yield "mean", _numbers(metrics.mean)
    yield "std", _numbers(metrics.std)
    for split, values in enumerate(metrics.splits):
        yield str(split), _numbers(values)


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    # NumPy's own types are none of JSON's; counts stay whole numbers.
    return {
        name: value if isinstance(value, int) else float(value) for name, value in metrics.items()
    }
