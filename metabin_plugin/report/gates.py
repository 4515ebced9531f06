"""The gates of trained networks, in numbers (paper, Fig. 4)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metabin_plugin.norm import network_parts
from metabin_plugin.report.files import FigureError, drawn, new_figure
from metabin_plugin.weights.checkpointer import network_state
from metabin_plugin.weights.files import read_weight_file

# Bounds of the intervals whose shares are shown: finer where most gates of a short training are.
BOUNDS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
INTERVALS = tuple(f"{low:g}-{high:g}" for low, high in itertools.pairwise(BOUNDS))
HISTOGRAM_BINS = 20
COLUMNS = (
    *("gates", "mean", "min", "max", "share_at_1"),
    *(f"share_{interval}" for interval in INTERVALS),
)

# Gates rho (C,), float64, by the name of the layer, from the image to the feature.
Gates = dict[str, np.ndarray]


def read_gates(path: Path) -> Gates:
    """Read the gates of a checkpoint.

    Raises:
        WeightsError: the file is missing, damaged or no checkpoint.
        FigureError: it has no gates, or gates that are no numbers.
    """
    state = network_state(read_weight_file(str(path)), str(path))
    gates = {
        name.removesuffix(".gate"): torch.as_tensor(value).double().flatten().numpy()
        for name, value in state.items()
        if name.endswith(".gate")
    }
    if not gates:
        raise FigureError(f"{path} has no gates; give a network with MODEL.BACKBONE.NORM BIN")
    for name, gate in gates.items():
        if not np.isfinite(gate).all():
            raise FigureError(
                f"{path}: a gate of {name} is not a finite number; give an earlier checkpoint"
            )
    return gates


def interval_shares(values: np.ndarray) -> np.ndarray:
    """Share of values in each of ``INTERVALS``, which hold their lower bound.

    What lies beyond 0 or 1, as fastreid's own trainer leaves gates, counts to the outermost ones.

    Args:
        values: rho, any number of them (N,).

    Returns:
        Shares in [0, 1] that sum to 1.
    """
    where = np.searchsorted(BOUNDS[1:-1], values, side="right")
    return np.bincount(where, minlength=len(INTERVALS)) / len(values)


def histogram(gates: Gates) -> tuple[np.ndarray, np.ndarray]:
    """Shares of all gates of a network in equal bins over [0, 1], and the edges of the bins."""
    counts, edges = np.histogram(all_gates(gates).clip(0, 1), HISTOGRAM_BINS, (0, 1))
    return counts / counts.sum(), edges


def gates_of_parts(gates: Gates) -> dict[str, Gates]:
    """Gates of the whole network, and of its shallow, middle and deep third."""
    parts = network_parts(list(gates))
    return {part: {name: gates[name] for name in layers} for part, layers in parts.items()}


def all_gates(gates: Mapping[str, np.ndarray]) -> np.ndarray:
    """The gates of several layers in one array."""
    return np.concatenate(list(gates.values()))


def summary(values: np.ndarray) -> list[float]:
    """Numbers of ``COLUMNS`` for some gates."""
    return [
        len(values),
        values.mean(),
        values.min(),
        values.max(),
        (values >= 1).mean(),
        *interval_shares(values),
    ]


def draw_gates(networks: Mapping[str, Gates]) -> Any:
    """One column for each network.

    From top to bottom: shares of the gates by interval of rho in each layer; their mean; the
    histogram over the whole network; and shares in the network and its thirds.

    Args:
        networks: gates by the network's name.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(max(9.0, 6.5 * len(networks)), 10)
    rows = figure.subplots(
        4, len(networks), squeeze=False, sharey="row", height_ratios=(3, 1.2, 1.5, 1.5)
    )
    for (title, gates), (layers, means, whole, parts) in zip(networks.items(), rows.T, strict=True):
        layers.set_title(drawn(title))
        _stack(layers.bar, np.arange(1, len(gates) + 1), list(gates.values()))
        means.plot(range(1, len(gates) + 1), [g.mean() for g in gates.values()], ".-", color="k")
        means.sharex(layers)
        means.set_xlabel("BIN layer, from the image to the feature")
        _draw_histogram(whole, gates)
        named = gates_of_parts(gates)
        _stack(parts.barh, list(named), [all_gates(part) for part in named.values()])
        parts.set_xlabel("share of gates")
    rows[3, 0].invert_yaxis()  # shared by the columns
    for axes, label in zip(rows[:3, 0], ("share of gates", "mean rho", "share"), strict=True):
        axes.set_ylabel(label)
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title="rho (1 = batch norm)",
        ncols=len(INTERVALS),
        loc="outside upper center",
    )
    return figure


def _stack(bars: Any, places: Any, groups: list[np.ndarray]) -> None:
    from matplotlib import colormaps

    shares = np.array([interval_shares(values) for values in groups])
    starts = np.cumsum(shares, axis=1) - shares
    # Neither bar() nor barh() has its lengths and starts under one keyword.
    start = "left" if bars.__name__ == "barh" else "bottom"
    colours = colormaps["viridis"](np.linspace(0, 1, len(INTERVALS)))
    for i, interval in enumerate(INTERVALS):
        bars(places, shares[:, i], 0.9, **{start: starts[:, i]}, label=interval, color=colours[i])


def _draw_histogram(axes: Any, gates: Gates) -> None:
    shares, edges = histogram(gates)
    axes.stairs(shares, edges, fill=True)
    # A few gates far from 1 are what the figure is about.
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_xlabel("rho, all layers")
