"""Drawing the sign of the inner gradient of each meta-train loss (cf. the paper's Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from report.files import new_figure
from report.gate_gradients import TermGradients

SIGNS = ("positive, towards IN", "negative, towards BN", "zero")
COLOURS = ("tab:red", "tab:blue", "lightgrey")

# Gradients by term, by iteration of the checkpoint.
Curve = Mapping[int, Mapping[str, TermGradients]]


def draw_gradients(measured: Curve) -> Any:
    """Shares of signs of the last checkpoint, in all and by layer; over iterations if several.

    Args:
        measured: at least one checkpoint.

    Returns:
        A matplotlib figure.
    """
    last = measured[max(measured)]
    several = len(measured) > 1
    figure = new_figure(10, 9 if several else 6)
    axes = figure.subplots(3 if several else 2, 1)
    _draw_shares(axes[0], last)
    _draw_layers(axes[1], last)
    if several:
        axes[0].legend_.set_title(f"gradients at iteration {max(measured)}")
        _draw_curve(axes[2], measured)
    return figure


def _draw_shares(axes: Any, terms: Mapping[str, TermGradients]) -> None:
    shares = np.array([term.shares() for term in terms.values()])
    starts = np.cumsum(shares, axis=1) - shares
    for i, (sign, colour) in enumerate(zip(SIGNS, COLOURS, strict=True)):
        axes.barh(list(terms), shares[:, i], left=starts[:, i], label=sign, color=colour)
    axes.axvline(0.5, color="black", linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of gates × mini-batches, by the sign of the loss's gradient")
    axes.legend(ncols=len(SIGNS), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _draw_layers(axes: Any, terms: Mapping[str, TermGradients]) -> None:
    means = {name: term.layer_means() for name, term in terms.items()}
    for name, mean in means.items():
        axes.plot(range(1, len(mean) + 1), mean, ".-", label=name)
    sizes = np.abs(np.concatenate(list(means.values())))
    # From layer to layer gradients differ by orders of magnitude, and in sign.
    axes.set_yscale("symlog", linthresh=float(np.median(sizes)) or 1.0)
    _finish(axes, 0, "mean gradient of a gate", "BIN layer, from the image to the feature")


def _draw_curve(axes: Any, measured: Curve) -> None:
    iterations = sorted(measured)
    for name in measured[iterations[0]]:
        positive = [measured[iteration][name].shares()[0] for iteration in iterations]
        axes.plot(iterations, positive, "o-", label=name)
    _finish(axes, 0.5, "share of positive", "iteration")


def _finish(axes: Any, balance: float, y: str, x: str) -> None:
    axes.axhline(balance, color="black", linewidth=0.8)
    axes.set_ylabel(y)
    axes.set_xlabel(x)
    axes.legend()
