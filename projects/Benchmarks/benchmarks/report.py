"""Results of a benchmark as a table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from tabulate import tabulate


class Result(Protocol):
    """What a benchmark returns."""

    def text(self) -> str:
        """What is printed: tables in Markdown."""
        ...

    def content(self) -> dict[str, Any]:
        """All that was measured, for JSON."""
        ...


def to_json(result: Result, benchmark: str, machine: str) -> str:
    """A result with every single measurement, and what it was measured on."""
    return json.dumps({"benchmark": benchmark, "machine": machine, **result.content()}, indent=1)


@dataclass
class Arm:
    """One way to do what is measured.

    Attributes:
        name: what the table calls it.
        seconds: times of its runs; none if only its memory was measured.
        peak_bytes: peak memory of a process that runs it once; None if it was not measured.
    """

    name: str
    seconds: Sequence[float] = ()
    peak_bytes: int | None = None


@dataclass
class Report:
    """One case with its arms as rows.

    Attributes:
        title: what was measured.
        arms: the rows; ratios are to the first one with times, and of memory where none has times.
        notes: sentences under the table.
    """

    title: str
    arms: list[Arm]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Title, Markdown table and notes."""
        medians = [statistics.median(arm.seconds) for arm in self.arms if arm.seconds]
        if medians:
            headers = ["", "median, s", "range, s", "runs", "ratio"]
            rows = [_timed_row(arm, medians[0]) for arm in self.arms]
            if any(arm.peak_bytes is not None for arm in self.arms):
                headers.append("peak memory, MiB")
                for row, arm in zip(rows, self.arms, strict=True):
                    row.append("" if arm.peak_bytes is None else _mebibytes(arm.peak_bytes))
        else:
            headers = ["", "peak memory, MiB", "ratio"]
            peaks = {arm.name: arm.peak_bytes or 0 for arm in self.arms}
            base = next(iter(peaks.values()))
            rows = [[name, _mebibytes(peak), f"{peak / base:.2f}"] for name, peak in peaks.items()]
        return _page(self.title, headers, rows, self.notes)

    def content(self) -> dict[str, Any]:
        """All that was measured, for JSON."""
        return asdict(self)


@dataclass
class Case:
    """One setting in which all arms of a comparison were measured.

    Attributes:
        name: what the table calls it.
        values: measurements of each arm, by arm; those that an arm cannot do are absent.
        weight: how often the setting occurs in what the comparison sums up.
    """

    name: str
    values: Mapping[str, Sequence[float]]
    weight: int = 1


@dataclass
class Comparison:
    """The same arms in several cases, which are the rows; ratios are to the first arm.

    Attributes:
        title: what was measured.
        unit: of the values once they are divided by ``scale``.
        scale: a unit, in that of the values.
        arms: the columns.
        cases: the rows.
        notes: sentences under the table.
        summed: whether a last row has the sum over the cases, each times its weight.
    """

    title: str
    unit: str
    scale: float
    arms: list[str]
    cases: list[Case]
    notes: list[str] = field(default_factory=list)
    summed: bool = False

    def text(self) -> str:
        """Title, Markdown table and notes."""
        base, *others = self.arms
        headers = ["", f"{base}, {self.unit}", *others]
        rows = [self._row(case.name, self._medians(case)) for case in self.cases]
        if self.summed:
            rows.append(self._row("sum, each as often as it occurs", self.sums()))
        title = f"{self.title} (after the first column, ratios to {base})"
        return _page(title, headers, rows, self.notes)

    def content(self) -> dict[str, Any]:
        """All that was measured, for JSON."""
        return asdict(self)

    def sums(self) -> dict[str, float]:
        """Sum over the cases of an arm's medians, each times its weight."""
        return {
            arm: sum(case.weight * statistics.median(case.values[arm]) for case in self.cases)
            for arm in self.arms
            if all(arm in case.values for case in self.cases)
        }

    def ratios(self, arm: str, other: str) -> list[float]:
        """An arm's median divided by that of another, in each case."""
        return [self._medians(case)[arm] / self._medians(case)[other] for case in self.cases]

    def _medians(self, case: Case) -> dict[str, float]:
        return {arm: statistics.median(values) for arm, values in case.values.items()}

    def _row(self, name: str, medians: Mapping[str, float]) -> list[str]:
        base, *others = self.arms
        ratios = [
            f"{medians[arm] / medians[base]:.2f}" if arm in medians else "–" for arm in others
        ]
        return [name, f"{medians[base] / self.scale:,.2f}", *ratios]


@dataclass
class Results:
    """Several tables of one benchmark.

    Attributes:
        parts: the tables.
        notes: sentences under the last one.
    """

    parts: Sequence[Result]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """All tables and then the notes."""
        tables = [part.text().rstrip() for part in self.parts]
        return "\n\n".join([*tables, "\n".join(self.notes)]).rstrip()

    def content(self) -> dict[str, Any]:
        """All that was measured, for JSON."""
        return {"parts": [part.content() for part in self.parts], "notes": self.notes}


def _page(title: str, headers: list[str], rows: list[list[str]], notes: list[str]) -> str:
    table = tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)
    return "\n".join([title, "", table, "", *notes])


def _timed_row(arm: Arm, base: float) -> list[str]:
    if not arm.seconds:
        return [arm.name, "", "", "", ""]
    median = statistics.median(arm.seconds)
    times = [f"{median:.3f}", f"{min(arm.seconds):.3f} – {max(arm.seconds):.3f}"]
    return [arm.name, *times, str(len(arm.seconds)), f"{median / base:.2f}"]


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f}"
