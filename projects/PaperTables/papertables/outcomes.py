"""What finished runs measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from metabin_plugin.errors import ConfigError
from papertables.runs import Run


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
