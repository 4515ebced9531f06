"""Draw the gates of a trained network, layer by layer, and write the numbers behind the figure.

python tools/plot_gates.py logs/metabin/model_final.pth [--output gates.png]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

BOUNDS = (0.0, 0.25, 0.5, 0.75, 0.999, float("inf"))


def main() -> None:
    """Read the checkpoint, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--output", type=Path, default=Path("gates.png"))
    args = parser.parse_args()
    if not args.checkpoint.is_file():
        sys.exit(f"error: there is no checkpoint {args.checkpoint}; train one first")
    state = torch.load(args.checkpoint, map_location="cpu", weights_only=True)["model"]
    gates = {n.removesuffix(".gate"): v for n, v in state.items() if n.endswith(".gate")}
    if not gates:
        sys.exit(f"error: {args.checkpoint} has no gates; give a network with BIN layers")
    write_csv(gates, args.output.with_suffix(".csv"))
    draw(gates, args.output)


def write_csv(gates: dict[str, Tensor], path: Path) -> None:
    """Mean, extremes and number of gates of each layer."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "gates", "mean", "min", "max", "share_at_1"])
        for name, gate in gates.items():
            numbers = (gate.mean(), gate.min(), gate.max(), (gate >= 1).float().mean())
            writer.writerow([name, gate.numel(), *(f"{value.item():.6f}" for value in numbers)])


def draw(gates: dict[str, Tensor], path: Path) -> None:
    """Per layer, the shares of gates in intervals of rho, and their mean (cf. Fig. 4)."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot as plt

    figure, (shares, means) = plt.subplots(2, 1, figsize=(10, 6), sharex=True, height_ratios=(3, 1))
    layers = range(1, len(gates) + 1)
    bottom = torch.zeros(len(gates))
    colours = plt.get_cmap("viridis")
    for i, (low, high) in enumerate(itertools.pairwise(BOUNDS)):
        share = torch.stack([((g >= low) & (g < high)).float().mean() for g in gates.values()])
        label = f"[{low:g}, {high:g})" if high < 1 else f"[{low:g}, 1]"
        colour = colours(i / (len(BOUNDS) - 2))
        shares.bar(layers, share, bottom=bottom, width=0.9, label=label, color=colour)
        bottom += share
    shares.set_ylabel("share of gates")
    shares.legend(
        title="rho (1 = batch norm)",
        ncols=len(BOUNDS) - 1,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )
    means.plot(layers, [gate.mean().item() for gate in gates.values()], ".-", color="black")
    means.set_ylabel("mean rho")
    means.set_xlabel("BIN layer, from the image to the feature")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
