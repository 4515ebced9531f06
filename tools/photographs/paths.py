"""Paths in what is written, relative to where it is written."""

from __future__ import annotations

import os
from pathlib import Path


def path_from(folder: Path, target: Path) -> str:
    """The path that leads from a folder to a target, with ``/`` between folders.

    Args:
        folder: where the path is to start; it need not exist yet.
        target: what the path is to lead to.

    Returns:
        The relative path; an absolute one where there is none, to another drive.
    """
    try:
        path = os.path.relpath(target, folder)
        if os.pardir in (*Path(path).parts, *target.parts, *folder.parts):
            # The operating system goes up from where a link leads to, not from where it is.
            path = os.path.relpath(os.path.realpath(target), os.path.realpath(folder))
    except ValueError:
        path = os.path.realpath(target)
    return Path(path).as_posix()
