"""Drawing maps of query and gallery features (cf. the paper's Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from report.embeddings import Distances, Target
from report.files import new_figure


@dataclass(frozen=True)
class Panel:
    """One network's map of one target.

    Attributes:
        target: the images that are mapped.
        query: places of the queries (Q, 2).
        gallery: places of the gallery (G, 2).
        distances: those of the whole target.
    """

    target: Target
    query: np.ndarray
    gallery: np.ndarray
    distances: Distances


def draw_maps(panels: Mapping[str, Mapping[str, Panel]], lines: bool) -> Any:
    """One row for each network and one column for each target; a colour for each identity.

    Args:
        panels: by network and target; all networks have the same targets.
        lines: whether to draw a line from each query to its matches.

    Returns:
        A matplotlib figure.
    """
    targets: Sequence[str] = list(next(iter(panels.values())))
    figure = new_figure(3.6 * len(targets) + 0.6, 3.8 * len(panels) + 0.6)
    rows = figure.subplots(len(panels), len(targets), squeeze=False)
    for (network, by_target), row in zip(panels.items(), rows, strict=True):
        row[0].set_ylabel(network)
        for (name, panel), axes in zip(by_target.items(), row, strict=True):
            _draw_panel(axes, panel, lines)
            title = f"match / all distance {panel.distances.ratio:.3f}"
            axes.set_title(f"{name.removeprefix('DG_')}: {title}", fontsize="medium")
    handles, labels = rows[0, 0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, ncols=2, loc="outside upper center")
    for handle in legend.legend_handles:
        # Colours are of identities, and taken from the array before any other.
        handle.set_array(None)
        handle.set_color("black")
    return figure


def _draw_panel(axes: Any, panel: Panel, lines: bool) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if lines:
        _draw_lines(axes, panel)
    target = panel.target
    people = np.unique(np.concatenate([target.query.identities, target.gallery.identities]))
    sides = (
        ("query", "o", panel.query, target.query.identities),
        ("gallery", "^", panel.gallery, target.gallery.identities),
    )
    for name, marker, places, identities in sides:
        # Neighbours in the order of the identities should not look alike.
        colours = np.searchsorted(people, identities) * 0.618 % 1
        axes.scatter(
            *places.T, s=14, marker=marker, c=colours, cmap="hsv", vmin=0, vmax=1, label=name
        )


def _draw_lines(axes: Any, panel: Panel) -> None:
    from matplotlib.collections import LineCollection

    pairs = np.argwhere(panel.target.pairs()[0])
    ends = np.stack([panel.query[pairs[:, 0]], panel.gallery[pairs[:, 1]]], axis=1)
    axes.add_collection(LineCollection(list(ends), colors="grey", linewidths=0.5))
