"""The tables: which rows they have, and their text from what was measured."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from metabin_plugin.config.reading import read_yaml_file
from metabin_plugin.errors import ConfigError
from metabin_plugin.text import as_cell
from papertables.runs import Run

TABLES = Path(__file__).resolve().parents[1] / "tables.yml"
MISSING = "-"
_MEASURED = ("Rank-1", "mAP", "seeds", "seconds", "peak MiB")


@dataclass(frozen=True)
class Outcome:
    """The numbers of a finished run.

    Attributes:
        run: the run.
        targets: Rank-1 and mAP in percent by target.
        seconds: how long it took, evaluation included.
        peak_mib: the most memory that it held.
    """

    run: Run
    targets: dict[str, tuple[float, float]]
    seconds: float
    peak_mib: float

    @property
    def rank1(self) -> float:
        """Mean Rank-1 of the targets, in percent."""
        return statistics.fmean(rank1 for rank1, _ in self.targets.values())

    @property
    def average_precision(self) -> float:
        """Mean mAP of the targets, in percent."""
        return statistics.fmean(precision for _, precision in self.targets.values())


@dataclass(frozen=True)
class Measured:
    """A quantity over the seeds of a row.

    Attributes:
        mean: its mean.
        std: its sample standard deviation; None with one seed.
    """

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.std is None else f" ± {self.std:.1f}")


def measured(values: Sequence[float]) -> Measured:
    """Mean and sample standard deviation of one value or more."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Measured(statistics.fmean(values), std)


def outcome(run: Run) -> Outcome | None:
    """What a run measured; None if it has not finished.

    Raises:
        ConfigError: its results are damaged.
    """
    record = run.record()
    if record is None or not run.is_finished():
        return None
    try:
        results = json.loads(run.results.read_text(encoding="utf-8"))
        targets = {target: (float(r["Rank-1"]), float(r["mAP"])) for target, r in results.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{run.results} is damaged; remove {run.folder}") from error
    return Outcome(run, targets, record.seconds, run.peak_mib(record))


@dataclass(frozen=True)
class TableRow:
    """One line of a table.

    Attributes:
        row: name of the row that is run.
        labels: what the paper's table says of it.
        paper: the paper's Rank-1 and mAP; None where it gives none.
    """

    row: str
    labels: tuple[str, ...]
    paper: tuple[float | None, float | None]


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        name: of its files.
        caption: what it shows.
        columns: headings of the labels.
        rows: its lines, in order.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class Plan:
    """All tables, and the scripts of the rows that tools/train_net.py does not run.

    Attributes:
        tables: by name.
        scripts: path of the script, from the repository's root, by row.
    """

    tables: Mapping[str, Table]
    scripts: Mapping[str, str]


def read_plan(path: Path = TABLES) -> Plan:
    """Read ``tables.yml``."""
    content = read_yaml_file(path)
    tables = {name: _table(name, node) for name, node in content["tables"].items()}
    return Plan(tables, content["scripts"])


def _table(name: str, node: Mapping[str, Any]) -> Table:
    rows = tuple(
        TableRow(
            line["row"],
            tuple(map(str, line["labels"])),
            tuple(line.get("paper", (None, None))),
        )
        for line in node["rows"]
    )
    return Table(name, " ".join(node["caption"].split()), tuple(node["columns"]), rows)


def markdown(table: Table, outcomes: Mapping[str, Sequence[Outcome]], note: str) -> str:
    """A table's text.

    Args:
        table: the table.
        outcomes: those of each row, one for each seed; a row may be absent.
        note: a sentence below the caption.

    Returns:
        Markdown: mean ± sample standard deviation over the seeds of the targets' average, in
        percent; seconds are the mean of the seeds, memory is the largest.
    """
    headings = [*table.columns, "paper Rank-1", "paper mAP", *_MEASURED]
    lines = [
        [*line.labels, *map(_percent, line.paper), *_cells(outcomes.get(line.row, ()))]
        for line in table.rows
    ]
    align = ["left"] * len(table.columns) + ["right"] * (len(headings) - len(table.columns))
    text = tabulate(lines, headings, tablefmt="pipe", disable_numparse=True, colalign=align)
    return f"{table.caption}\n\n{note}\n\n{text}\n"


def table_csv(table: Table, outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """The numbers of :func:`markdown`, unrounded; what is missing is empty."""
    headings = [
        *("row", *table.columns, "paper_rank1", "paper_map"),
        *("rank1_mean", "rank1_std", "map_mean", "map_std", "seeds", "seconds", "peak_mib"),
    ]
    lines = [
        [line.row, *line.labels, *line.paper, *_numbers(outcomes.get(line.row, ()))]
        for line in table.rows
    ]
    return _csv(headings, lines)


def runs_csv(outcomes: Sequence[Outcome]) -> str:
    """Every run's numbers, one line for each target."""
    headings = ["row", "seed", "target", "rank1", "map", "seconds", "peak_mib"]
    lines = [
        [o.run.row, o.run.seed, target, rank1, precision, o.seconds, o.peak_mib]
        for o in outcomes
        for target, (rank1, precision) in o.targets.items()
    ]
    return _csv(headings, lines)


def _cells(outcomes: Sequence[Outcome]) -> list[str]:
    if not outcomes:
        return [MISSING] * len(_MEASURED)
    return [
        str(measured([o.rank1 for o in outcomes])),
        str(measured([o.average_precision for o in outcomes])),
        str(len(outcomes)),
        f"{measured([o.seconds for o in outcomes]).mean:.0f}",
        f"{max(o.peak_mib for o in outcomes):.0f}",
    ]


def _numbers(outcomes: Sequence[Outcome]) -> list[float | None]:
    if not outcomes:
        return [None] * 7
    rank1 = measured([o.rank1 for o in outcomes])
    precision = measured([o.average_precision for o in outcomes])
    seconds = measured([o.seconds for o in outcomes]).mean
    peak = max(o.peak_mib for o in outcomes)
    return [
        *(rank1.mean, rank1.std, precision.mean, precision.std),
        *(len(outcomes), seconds, peak),
    ]


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def _csv(headings: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(
        [as_cell(value) if isinstance(value, str) else value for value in line] for line in lines
    )
    return file.getvalue()
