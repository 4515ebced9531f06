"""Draw what MetaBIN does, for README: the layer (Eq. 1) and one iteration (Algorithm 1).

python projects/Method/draw.py --output method.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    Color = str | tuple[float, ...]

IMAGES, CHANNELS = 4, 5
# One gate a channel: the first is batch normalization alone, the last instance normalization alone.
GATES = (1.0, 0.8, 0.5, 0.25, 0.0)
BATCH, INSTANCE, NEUTRAL, TEXT = "#3f6fb5", "#d9822b", "#e9ebee", "#222222"
_SMALL, _LARGE = 9.5, 12.0


def _between(share: float) -> tuple[float, ...]:
    """The color of a mix: ``share`` of batch normalization's, the rest of instance's."""
    from matplotlib.colors import to_rgb

    pairs = zip(to_rgb(BATCH), to_rgb(INSTANCE), strict=True)
    return tuple(share * batch + (1 - share) * instance for batch, instance in pairs)


def _grid(
    axes: Axes, left: float, colors: Sequence[Sequence[Color]], title: str, below: str
) -> None:
    """Images in rows, channels in columns; each cell is one feature map."""
    from matplotlib.patches import Rectangle

    for row, line in enumerate(colors):
        for column, color in enumerate(line):
            corner = (left + column, IMAGES - 1 - row)
            axes.add_patch(Rectangle(corner, 0.92, 0.92, facecolor=color, edgecolor="none"))
    middle = left + CHANNELS / 2
    axes.text(middle, IMAGES + 0.55, title, ha="center", fontsize=_LARGE, color=TEXT)
    axes.text(middle, -0.35, below, ha="center", va="top", fontsize=_SMALL, color=TEXT)


def draw_layer(axes: Axes) -> None:
    """Which values share a mean and a variance, and how the gate mixes the two results."""
    rows, columns = range(IMAGES), range(CHANNELS)
    batch = [[BATCH if c == 1 else NEUTRAL for c in columns] for _ in rows]
    instance = [[INSTANCE if (r, c) == (1, 1) else NEUTRAL for c in columns] for r in rows]
    mixed = [[_between(gate) for gate in GATES] for _ in rows]
    step = CHANNELS + 2.2
    _grid(axes, 0, batch, "BN", "one mean and variance\na channel, over the batch")
    _grid(axes, step, instance, "IN", "one mean and variance\na channel of each image")
    _grid(axes, 2 * step, mixed, "BIN (Eq. 1)", "")
    for place, sign in ((CHANNELS + 0.95, "+"), (step + CHANNELS + 0.95, "=")):
        axes.text(place, IMAGES / 2, sign, ha="center", va="center", fontsize=18, color=TEXT)
    for column, gate in enumerate(GATES):
        place = 2 * step + column + 0.46
        axes.text(place, -0.35, f"{gate:g}", ha="center", va="top", fontsize=_SMALL, color=TEXT)
    axes.text(
        2 * step + CHANNELS / 2,
        -1.05,
        r"gate $\rho$ of each channel:  $\rho\,$BN $+\,(1-\rho)\,$IN",
        ha="center",
        va="top",
        fontsize=_SMALL,
        color=TEXT,
    )
    axes.text(-0.3, IMAGES / 2, "images", rotation=90, ha="right", va="center", fontsize=_SMALL)
    axes.text(CHANNELS / 2, IMAGES + 0.1, "channels", ha="center", fontsize=_SMALL)
    axes.set_xlim(-1.2, 3 * step - 1)
    axes.set_ylim(-2.2, IMAGES + 1.2)


def _box(axes: Axes, place: tuple[float, float], text: str, color: str, width: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = place
    shape = FancyBboxPatch(
        (x, y), width, 1.5, boxstyle="round,pad=0.08", facecolor=color, edgecolor="none", alpha=0.22
    )
    axes.add_patch(shape)
    axes.text(x + width / 2, y + 0.75, text, ha="center", va="center", fontsize=_SMALL, color=TEXT)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": TEXT, "lw": 1.3})
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    axes.text(middle[0], middle[1] + 0.15, text, ha="center", va="bottom", fontsize=_SMALL)


def draw_iteration(axes: Axes) -> None:
    """The two episodes of an iteration, and what each of them moves."""
    axes.text(0, 4.55, "1. base step", fontsize=_LARGE, color=TEXT)
    _box(axes, (0, 2.7), "images of all domains", BATCH, 5.0)
    _arrow(axes, (5.2, 3.45), (7.9, 3.45), r"$L_{base}$ (Eq. 4)")
    _box(axes, (8.0, 2.7), r"weights $\theta$ move" + "\n" + r"gates $\rho$ are held", BATCH, 4.6)
    axes.text(0, 1.65, "2. meta step", fontsize=_LARGE, color=TEXT)
    _box(axes, (0, -0.2), "meta-train domains\n(drawn anew each time)", INSTANCE, 5.0)
    _arrow(axes, (5.2, 0.55), (7.9, 0.55), r"$L_{mtr}$ (Eq. 8)")
    inner = "inner step (Eq. 9)\n" + r"$\rho' = \rho - \beta \nabla L_{mtr}(\rho)$"
    _box(axes, (8.0, -0.2), inner, INSTANCE, 4.6)
    _box(axes, (0, -2.6), "meta-test domains\n(the others)", INSTANCE, 5.0)
    _arrow(axes, (5.2, -1.85), (7.9, -1.85), r"$L_{mte}$ at $\rho'$")
    outer = "outer step (Eq. 10)\n" + r"$\rho \leftarrow \rho - \gamma \nabla L_{mte}(\rho')$"
    _box(axes, (8.0, -2.6), outer, INSTANCE, 4.6)
    _arrow(axes, (10.3, -0.35), (10.3, -0.95), "")
    axes.set_xlim(-0.3, 13)
    axes.set_ylim(-3, 5.2)


def draw(path: Path) -> None:
    """Write the figure.

    Args:
        path: of the PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.7), layout="constrained")
    layer, iteration = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for axes in (layer, iteration):
        axes.set_axis_off()
        axes.set_aspect("equal")
    draw_layer(layer)
    draw_iteration(iteration)
    figure.savefig(path, dpi=110, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("method.png"))
    draw(parser.parse_args().output)
