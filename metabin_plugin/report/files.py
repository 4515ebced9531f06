"""Writing figures and the numbers behind them; what they are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode

from metabin_plugin.engine import read_config
from metabin_plugin.errors import MetaBINError
from metabin_plugin.files import make_folder_of, write_whole
from metabin_plugin.text import csv_file

FORMATS = (".png", ".pdf", ".svg")


class FigureError(MetaBINError):
    """A figure cannot be made of what there is, or cannot be written."""


def check_output(path: Path) -> None:
    """Refuse a figure's path before the work is done, and make its folder.

    Args:
        path: the figure to write.

    Raises:
        FigureError: matplotlib is missing, the file's format is unknown, or there can be no such
            file.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise FigureError(
            "figures are drawn by matplotlib, which is not installed; run `pip install matplotlib`,"
            ' or install the plugin with its extra "demo"'
        ) from None
    if path.suffix not in FORMATS or path.is_dir():
        raise FigureError(
            f"--output {path} is not the path of a figure; give one that ends in "
            f"{', '.join(FORMATS)}"
        )
    make_folder_of(path, FigureError)


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of a size in inches, which needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def drawn(name: str) -> str:
    """A name as matplotlib has to be given it to draw it as it is.

    It takes what is between two dollar signs for a formula, and leaves a name that begins with _
    out of legends.

    Args:
        name: of a run, a network or a target.
    """
    return f"{' ' * name.startswith('_')}{name}".replace("$", r"\$")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure, complete or not at all.

    Raises:
        FigureError: it cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=120), FigureError)


def beside(figure: Path, what: str = "") -> Path:
    """Path of the numbers behind a figure: ``gates.csv``, or ``gates_<what>.csv``."""
    return figure.with_name(f"{figure.stem}{'_' if what else ''}{what}.csv")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, complete or not at all; floats have six significant digits.

    A text that a spreadsheet would take for a formula is quoted, see ``as_cell``.

    Raises:
        FigureError: it cannot be written.
    """
    write_whole(path, lambda file: file.write(csv_file(columns, rows, ".6g")), FigureError)


def label_paths(paths: Sequence[Path], given: Sequence[str] | None = None) -> list[str]:
    """Names for paths: as given, or as much of their ends as tells them apart.

    Args:
        paths: checkpoints or folders of runs.
        given: one name each; None to make them.

    Raises:
        FigureError: not one name each, or a path or name that comes twice.
    """
    if given is not None:
        if len(given) != len(paths) or len(set(given)) < len(given):
            raise FigureError(
                f"--labels has {len(given)} names for {len(paths)} paths; give each its own"
            )
        return list(given)
    parts = [path.absolute().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(own[-depth:]).removesuffix(".pth") for own in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise FigureError(f"a path comes twice in {', '.join(map(str, paths))}; give each once")


def config_of(checkpoint: Path, config_file: str, options: Sequence[str]) -> CfgNode:
    """The config of a checkpoint's training, with the checkpoint as ``MODEL.WEIGHTS``.

    Args:
        checkpoint: a file in the ``OUTPUT_DIR`` of its training.
        config_file: the config to use; "" is the one that the training left beside the checkpoint.
        options: keys and values in turn, which come last.

    Raises:
        FigureError: there is no config beside the checkpoint.
        ConfigError: the config or an option cannot be read.
    """
    path = Path(config_file) if config_file else checkpoint.parent / "config.yaml"
    if not config_file and not path.is_file():
        raise FigureError(
            f"{checkpoint} has no config.yaml beside it; name the config of its training by "
            "--config-file"
        )
    return read_config(str(path), [*options, "MODEL.WEIGHTS", str(checkpoint)])
