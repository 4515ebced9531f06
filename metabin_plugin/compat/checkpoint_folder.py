"""Which checkpoint of a folder to resume from, and which one could take a damaged one's place."""

from __future__ import annotations

import os
from collections.abc import Iterable

from metabin_plugin.errors import WeightsError
from metabin_plugin.weight_files import agrees_with_checksums, unpickle

# The file that names the checkpoint to resume from.
TAG = "last_checkpoint"


def has_tag(folder: str) -> bool:
    """Whether a folder names the checkpoint to resume from.

    Args:
        folder: the run's folder.
    """
    return os.path.isfile(os.path.join(folder, TAG))


def read_tag(folder: str) -> str:
    """File name of the checkpoint to resume from; "" if the folder names none.

    Args:
        folder: the run's folder.
    """
    try:
        with open(os.path.join(folder, TAG), encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def newest_whole(folder: str, parts: Iterable[str]) -> str | None:
    """The newest checkpoint in a folder that is intact and has all parts.

    Args:
        folder: where to look; none is found in one that is not there.
        parts: entries that the checkpoint must have.

    Returns:
        Its file name; None if there is none.
    """
    if not os.path.isdir(folder):
        return None
    with os.scandir(folder) as entries:
        files = [entry for entry in entries if entry.name.endswith(".pth")]
    files.sort(key=lambda entry: entry.stat().st_mtime_ns, reverse=True)
    needed = set(parts)
    return next((file.name for file in files if _is_whole(file.path, needed)), None)


def advice(folder: str, parts: Iterable[str]) -> str:
    """What to do when the checkpoint to load is of no use.

    Args:
        folder: where to look for another.
        parts: entries that it must have.

    Returns:
        Part of a sentence that names the newest whole checkpoint.
    """
    newest = newest_whole(folder or os.curdir, parts)
    if newest is None:
        return "there is no intact checkpoint beside it"
    return (
        f"the newest intact checkpoint beside it is {newest}: write that name into {TAG}, or give "
        "its path as MODEL.WEIGHTS"
    )


def _is_whole(path: str, parts: set[str]) -> bool:
    if not agrees_with_checksums(path):
        return False
    try:
        content = unpickle(path)
    except WeightsError:
        return False
    return isinstance(content, dict) and parts <= content.keys()
