"""Short names for the files and folders that a figure compares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from report.files import FigureError


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
