"""Results of a benchmark as a table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from tabulate import tabulate


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
    """A finished benchmark.

    Attributes:
        title: what was measured.
        arms: the rows; ratios are to the first one with times.
        notes: sentences under the table.
    """

    title: str
    arms: list[Arm]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Title, Markdown table and notes."""
        (base, *_) = [statistics.median(arm.seconds) for arm in self.arms if arm.seconds]
        headers = ["", "median, s", "range, s", "runs", "ratio", "peak memory, MiB"]
        rows = [_row(arm, base) for arm in self.arms]
        table = tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)
        return "\n".join([self.title, "", table, "", *self.notes])

    def to_json(self, benchmark: str, machine: str) -> str:
        """The same with every single time."""
        return json.dumps({"benchmark": benchmark, "machine": machine, **asdict(self)}, indent=1)


def _row(arm: Arm, base: float) -> list[str]:
    memory = "" if arm.peak_bytes is None else f"{arm.peak_bytes / 2**20:,.0f}"
    if not arm.seconds:
        return [arm.name, "", "", "", "", memory]
    median = statistics.median(arm.seconds)
    times = [f"{median:.3f}", f"{min(arm.seconds):.3f} – {max(arm.seconds):.3f}"]
    return [arm.name, *times, str(len(arm.seconds)), f"{median / base:.1f}", memory]
