"""The gates of trained networks, in numbers (paper, Fig. 4)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from metabin_plugin.compat.checkpoint_fit import network_state
from metabin_plugin.norm import network_parts
from metabin_plugin.weight_files import read_weight_file
from report.files import FigureError

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
