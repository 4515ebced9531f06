"""The numbers of the runs: a raw row each, and the table over the seeds."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from metabin_plugin.errors import ConfigError
from metabin_plugin.evaluation import BY_CAMERA_SUFFIX
from papertables.runs import Record, Run
from papertables.tables import MISSING, measured

METRICS = ("mAP", "Rank-1", "Rank-5", "Rank-10")
# Of an evaluation's operating points, with the factor that makes them percent; d' is no share.
POINTS = {"TMR@FMR=1e-02": 100, "EER": 100, "d_prime": 1, "DIR@FPIR=1e-01": 100}
# Of an evaluation with METABIN.TEST.CAMERA_STANDARDIZATION.
BY_CAMERA = {metric: metric + BY_CAMERA_SUFFIX for metric in METRICS[:2]}
PLACE = ("commit", "torch", "processor")
REFERENCE = "MetaBIN"
_AVERAGE = "average"
# Of a number in the raw rows. The tables are made of the same numbers, so that they follow from
# the rows to the last figure.
_DECIMALS = 4
_SEED = re.compile(r"seed(0|-?[1-9]\d*)")


@dataclass(frozen=True)
class Result:
    """What a finished run measured.

    Attributes:
        arm: name of the arm.
        seed: its seed.
        targets: metrics in percent by target; ``POINTS`` and ``BY_CAMERA`` too where the run has
            them.
        cpu_seconds: how long it computed, evaluation included, in whole seconds; None if unknown.
        wall_seconds: how long it took, in whole seconds; None if unknown.
        place: commit, PyTorch's version and processor.
    """

    arm: str
    seed: int
    targets: Mapping[str, Mapping[str, float]]
    cpu_seconds: int | None
    wall_seconds: int | None
    place: Mapping[str, str]

    def value(self, target: str, metric: str) -> float:
        """A metric of a target, or its mean over the targets if that is ``"average"``.

        Rounded, as it stands in the raw rows.
        """
        if target == _AVERAGE:
            mean = statistics.fmean(metrics[metric] for metrics in self.targets.values())
            return round(mean, _DECIMALS)
        return round(self.targets[target][metric], _DECIMALS)

    def has(self, metric: str) -> bool:
        """Whether it has a metric of every target."""
        return all(metric in metrics for metrics in self.targets.values())


def read_results(output: Path, arms: Sequence[str]) -> list[Result]:
    """All finished runs of a folder, whoever ran them.

    Args:
        output: folder of all runs.
        arms: the order of the arms; others follow.

    Raises:
        ConfigError: the record or the results of a run are damaged, or the runs were tested on
            different targets.
    """
    order = {arm: number for number, arm in enumerate(arms)}
    results = []
    for folder in output.glob("*/seed*"):
        # A copy that somebody has put aside, seed1.old, is no run.
        if (seed := _SEED.fullmatch(folder.name)) is None:
            continue
        run = Run(folder.parent.name, int(seed[1]), folder)
        record = run.record()
        if record is not None and run.is_finished():
            results.append(_result(run, record))
    results.sort(key=lambda r: (order.get(r.arm, len(order)), r.arm, r.seed))
    for result in results[1:]:
        if set(result.targets) != set(results[0].targets):
            raise ConfigError(
                f"{output}: {result.arm} seed {result.seed} was tested on "
                f"{', '.join(result.targets)} and {results[0].arm} seed {results[0].seed} on "
                f"{', '.join(results[0].targets)}, whose averages do not compare; move one of them "
                "to another --output"
            )
    return results


def _result(run: Run, record: Record) -> Result:
    try:
        content = json.loads(run.results.read_text(encoding="utf-8"))
        targets = {
            target.removeprefix("DG_"): {
                metric: float(values[metric])
                for metric in (*METRICS, *BY_CAMERA.values())
                if metric in METRICS or metric in values
            }
            for target, values in content.items()
        }
        for target, points in _points(run.results.with_name("operating_points.csv")).items():
            targets[target].update(points)
        if not targets:
            raise ValueError("no targets")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"the results in {run.folder} are damaged; remove it") from error
    cpu, wall = (record.cpu_seconds, record.seconds) if record.is_timed else (None, None)
    return Result(run.row, run.seed, targets, _whole(cpu), _whole(wall), record.place)


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)


def _points(path: Path) -> dict[str, dict[str, float]]:
    """Means over the splits by target; none where the evaluation wrote none."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "mean"]
    return {
        row["target"].removeprefix("DG_"): {
            name: factor * float(row[name]) for name, factor in POINTS.items()
        }
        for row in rows
    }


def raw_csv(results: Sequence[Result]) -> str:
    """One row a run, all its numbers; what is unknown is empty."""
    targets = [*_targets(results), _AVERAGE]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    metrics = *METRICS, *POINTS, *BY_CAMERA.values()
    columns = [(target, metric) for target in targets for metric in metrics]
    names = map(" ".join, columns)
    writer.writerow(["arm", "seed", *names, "CPU seconds", "wall seconds", *PLACE])
    for result in results:
        times = ["" if t is None else t for t in (result.cpu_seconds, result.wall_seconds)]
        place = [result.place.get(key, "") for key in PLACE]
        row = [
            f"{result.value(*column):.{_DECIMALS}f}" if result.has(column[1]) else ""
            for column in columns
        ]
        writer.writerow([result.arm, result.seed, *row, *times, *place])
    return file.getvalue()


def markdown(results: Sequence[Result], titles: Mapping[str, str], about: str) -> str:
    """The tables: mAP and Rank-1 of each target and on average, and how far from MetaBIN.

    Of the runs that have operating points the averages of ``POINTS`` are in a third.

    Args:
        results: the finished runs.
        titles: what the table calls each arm.
        about: a sentence above it.

    Returns:
        Markdown: mean ± sample standard deviation over the seeds, in percent; *by camera* is of
        features standardized by camera, from the runs that have it; CPU seconds are the
        mean of the runs whose time is known; the difference to MetaBIN is that of
        :func:`paired_difference`.
    """
    parts = [f"{about} Mean ± standard deviation over the seeds, in %."]
    parts += [_table(results, titles, metric) for metric in METRICS[:2]]
    with_points = [result for result in results if all(map(result.has, POINTS))]
    if with_points:
        parts += [_table_of_points(with_points, titles)]
    return "\n\n".join(parts) + "\n"


def paired_difference(
    results: Sequence[Result], arm: str, metric: str, target: str = _AVERAGE
) -> tuple[float, float | None] | None:
    """How far an arm is from MetaBIN: a difference for each seed that both have.

    Args:
        results: the finished runs.
        arm: name of the arm.
        metric: of ``METRICS``.
        target: a target, or the average of all.

    Returns:
        The mean of the differences and its standard error, their sample standard deviation by
        the root of their number: None with one seed. None with no seed in common.
    """
    values = {(r.arm, r.seed): r.value(target, metric) for r in results}
    differences = [
        value - values[REFERENCE, seed]
        for (name, seed), value in values.items()
        if name == arm and (REFERENCE, seed) in values
    ]
    if not differences:
        return None
    over = measured(differences)
    return over.mean, None if over.std is None else over.std / len(differences) ** 0.5


def _table(results: Sequence[Result], titles: Mapping[str, str], metric: str) -> str:
    targets = _targets(results)
    by_camera = BY_CAMERA[metric]
    lines = []
    for arm in dict.fromkeys(result.arm for result in results):
        own = [result for result in results if result.arm == arm]
        standardized = [r.value(_AVERAGE, by_camera) for r in own if r.has(by_camera)]
        seconds = [r.cpu_seconds for r in own if r.cpu_seconds is not None]
        cells = [str(measured([r.value(t, metric) for r in own])) for t in (_AVERAGE, *targets)]
        lines.append(
            [
                titles.get(arm, arm),
                *cells,
                MISSING if arm == REFERENCE else _difference(results, arm, metric),
                str(measured(standardized)) if standardized else MISSING,
                f"{statistics.fmean(seconds):.0f}" if seconds else MISSING,
                len(own),
            ]
        )
    headings = [metric, _AVERAGE, *targets, f"average − {REFERENCE}", "average by camera"]
    headings += ["CPU seconds", "seeds"]
    align = ["left"] + ["right"] * (len(headings) - 1)
    return tabulate(lines, headings, tablefmt="pipe", disable_numparse=True, colalign=align)


def _table_of_points(results: Sequence[Result], titles: Mapping[str, str]) -> str:
    lines = []
    for arm in dict.fromkeys(result.arm for result in results):
        own = [result for result in results if result.arm == arm]
        cells = [str(measured([r.value(_AVERAGE, name) for r in own])) for name in POINTS]
        lines.append([titles.get(arm, arm), *cells, len(own)])
    headings = ["operating points, average", *POINTS, "seeds"]
    align = ["left"] + ["right"] * (len(headings) - 1)
    return tabulate(lines, headings, tablefmt="pipe", disable_numparse=True, colalign=align)


def _difference(results: Sequence[Result], arm: str, metric: str) -> str:
    difference = paired_difference(results, arm, metric)
    if difference is None:
        return MISSING
    mean, error = difference
    return f"{mean:+.1f}" + ("" if error is None else f" ± {error:.1f}")


def _targets(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(target for result in results for target in result.targets))
