"""Drawing the gates of trained networks side by side (cf. the paper's Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from report.files import new_figure
from report.gates import (
    INTERVALS,
    Gates,
    all_gates,
    gates_of_parts,
    histogram,
    interval_shares,
)


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
        layers.set_title(title)
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
