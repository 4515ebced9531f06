"""The file that tells what a demo folder was made with."""

from __future__ import annotations

import json
from pathlib import Path

from demo_data import VERSION

NAME = "demo_data.json"


class FolderError(Exception):
    """The output folder cannot be filled; its text names the folder and the remedy."""


def parameters(seed: int, scale: float) -> dict[str, float]:
    """Return what determines every pixel of a benchmark."""
    return {"version": VERSION, "seed": seed, "scale": scale}


def is_complete(output: Path, wanted: dict[str, float]) -> bool:
    """Tell whether a folder already holds the wanted benchmark.

    Args:
        output: the datasets root.
        wanted: result of ``parameters``.

    Returns:
        True if it is complete; False if it is empty, missing, or was left unfinished by a run
        with the same parameters.

    Raises:
        FolderError: if the folder holds anything else, which is never overwritten.
    """
    if not output.exists():
        return False
    if not output.is_dir():
        raise FolderError(f"{output} is not a folder; choose another --output.")
    if not any(output.iterdir()):
        return False
    found = _read(output)
    if {key: found.get(key) for key in wanted} != wanted:
        raise FolderError(
            f"{output} is not empty and was not made by this version with seed {wanted['seed']} "
            f"and scale {wanted['scale']}; delete it or choose another --output."
        )
    return found.get("complete") is True


def write(output: Path, made: dict[str, float], *, complete: bool) -> None:
    """Write the marker of a folder that is being, or has been, filled."""
    text = json.dumps({**made, "complete": complete}, indent=2)
    (output / NAME).write_text(text + "\n", encoding="utf-8")


def _read(output: Path) -> dict[str, object]:
    try:
        found = json.loads((output / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
