"""Operating points of an evaluation as files and as a figure, and their rates in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from metabin_plugin.files import replace_file
from metabin_plugin.operating_points import (
    FALSE_MATCH_RATES,
    MOST_PAIRS,
    NO_COMPARISONS,
    OperatingPoints,
    TargetPoints,
    histogram,
    on_grid,
    rates_at,
)
from metabin_plugin.text import csv_file, shown

logger = logging.getLogger(__name__)

POINTS = "operating_points"
HISTOGRAM_BINS = 100
# The figures that the log shows, of those that are rates.
_SHOWN = 8

PointsOfTargets = Mapping[str, Sequence[TargetPoints]]


def write_points(by_target: PointsOfTargets, folder: Path) -> None:
    """Write the operating points of targets to files in a folder, and the rates to the log.

    - ``operating_points.csv``: lines as in ``results.csv``;
    - ``operating_points_cameras.csv``: the same for each pair of cameras of query and gallery, of
      targets with at most ``MOST_PAIRS`` of them;
    - ``operating_points_histograms.csv``: how many distances of the same person and of different
      people lie from one number up to the next, over all splits; drawn in ``operating_points.png``;
    - ``operating_points_carried.csv``, for several targets: what a threshold that was found on one
      of them gives on another, see ``_carried``.

    Args:
        by_target: the points of each split of each target.
        folder: where to write.
    """

    def write(what: str, columns: Sequence[str], rows: Iterator[tuple[object, ...]]) -> None:
        content = csv_file(columns, rows, ".9g")
        replace_file(folder / f"{POINTS}{what}.csv", lambda file: file.write(content))

    some = next(iter(by_target.values()))[0].whole.figures()
    whole = {(name,): [split.whole for split in each] for name, each in by_target.items()}
    pairs = {
        (name, *pair): [split.pairs.get(pair, NO_COMPARISONS) for split in splits]
        for name, splits in by_target.items()
        for pair in sorted({pair for split in splits for pair in split.pairs})
    }
    write("", ["target", "split", *some], _point_rows(whole))
    cameras = ["query_camera", "gallery_camera"]
    write("_cameras", ["target", *cameras, "split", *some], _point_rows(pairs))
    for name, splits in by_target.items():
        if not any(split.pairs for split in splits):
            logger.info(
                "%s has more than %d pairs of cameras: there are no operating points of each",
                shown(name),
                MOST_PAIRS,
            )
    histograms = {name: _histogram(splits) for name, splits in by_target.items()}
    columns = ["target", "from", "below", "same", "different"]
    write("_histograms", columns, _histogram_rows(histograms))
    if len(by_target) > 1:
        columns = ["FMR_wanted", "of", "threshold", "on", "FMR", "FMR_std", "TMR", "TMR_std"]
        write("_carried", columns, _carried(by_target))
    _draw(by_target, histograms, folder / f"{POINTS}.png")
    rates = list(some)[:_SHOWN]
    table = [
        [shown(name), *map(_cell, rates, *(values[:_SHOWN] for _, values in rows))]
        for name, rows in ((name, list(_lines(points))[:2]) for (name,), points in whole.items())
    ]
    logger.info("Operating points (rates in %%):\n%s", tabulate(table, ["target", *rates]))


def _cell(name: str, mean: float, std: float | None = None) -> str:
    # d' is no share.
    scale, digits = (1, 2) if name == "d_prime" else (100, 1)
    deviation = "" if std is None else f" ± {scale * std:.{digits}f}"
    return f"{scale * mean:.{digits}f}{deviation}"


def _lines(points: Sequence[OperatingPoints]) -> Iterator[tuple[str, Sequence[float]]]:
    """Name and figures of each line of a target or a pair of cameras, mean and deviation first."""
    splits = [list(each.figures().values()) for each in points]
    if len(splits) == 1:
        yield "mean", splits[0]
        return
    values = np.array(splits, float)
    yield "mean", values.mean(0).tolist()
    yield "std", values.std(0, ddof=1).tolist()
    yield from ((str(number), figures) for number, figures in enumerate(splits))


def _point_rows(
    points: Mapping[Any, Sequence[OperatingPoints]],
) -> Iterator[tuple[object, ...]]:
    for names, splits in points.items():
        for line, figures in _lines(splits):
            yield *names, line, *figures


def _carried(by_target: PointsOfTargets) -> Iterator[tuple[object, ...]]:
    """What thresholds of one target give on the others, and on itself.

    A threshold is the mean over the splits of its target, rounded down to the grid on which the
    rates of every target are exact (``on_grid``, less than 0.05 %).
    """
    for place, rate in enumerate(FALSE_MATCH_RATES):
        for source, own in by_target.items():
            found = np.mean([split.whole.match_thresholds[place] for split in own])
            threshold = on_grid(float(found))
            for target, splits in by_target.items():
                rates = np.array([rates_at(threshold, s.same, s.different) for s in splits])
                mean = rates.mean(0).tolist()
                several = len(rates) > 1
                std = rates.std(0, ddof=1).tolist() if several else [float("nan")] * 2
                yield rate, source, threshold, target, mean[0], std[0], mean[1], std[1]


Histogram = tuple[np.ndarray, np.ndarray, np.ndarray]


def _histogram(splits: Sequence[TargetPoints]) -> Histogram:
    """Edges (B + 1,), and numbers of distances (B,) of the same person and of different people."""
    counts = [*(split.same for split in splits), *(split.different for split in splits)]
    edges, numbers = histogram(counts, HISTOGRAM_BINS)
    same, different = np.split(np.array(numbers), 2)
    return edges, same.sum(0), different.sum(0)


def _histogram_rows(histograms: Mapping[str, Histogram]) -> Iterator[tuple[object, ...]]:
    for name, (edges, same, different) in histograms.items():
        for row in zip(edges[:-1], edges[1:], same, different, strict=True):
            yield name, *(value.item() for value in row)


def _draw(by_target: PointsOfTargets, histograms: Mapping[str, Histogram], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.info("%s is not drawn: matplotlib is not installed", path.name)
        return
    figure = Figure(figsize=(7, 2.4 * len(histograms)), layout="constrained")
    panels = figure.subplots(len(histograms), squeeze=False, sharex=True)[:, 0]
    for panel, (name, (edges, *numbers)) in zip(panels, histograms.items(), strict=True):
        panel.set_title(shown(name), parse_math=False)
        for counts, label, colour in zip(
            numbers, ("same person", "different people"), ("tab:green", "tab:red"), strict=True
        ):
            if counts.sum():
                density = counts / (counts.sum() * np.diff(edges))
                panel.stairs(density, edges, fill=True, alpha=0.5, color=colour, label=label)
        splits = by_target[name]
        for place, rate in enumerate(FALSE_MATCH_RATES):
            threshold = np.mean([split.whole.match_thresholds[place] for split in splits])
            if np.isfinite(threshold):
                panel.axvline(threshold, color="black", linewidth=0.8, linestyle=":")
                where = {"xy": (threshold, 1), "xycoords": ("data", "axes fraction")}
                panel.annotate(f"{rate:g}", **where, rotation=90, fontsize=7, va="top", ha="right")
        panel.set_ylabel("density")
        panel.legend(loc="upper right", fontsize=8)
    panels[-1].set_xlabel("distance (dotted: thresholds of false-match rates)")
    replace_file(path, lambda file: figure.savefig(file, format="png", dpi=120))
