"""Which checkpoint of a folder to resume from, and which one could take a damaged one's place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from metabin_plugin.errors import WeightsError
from metabin_plugin.text import shown
from metabin_plugin.weight_files import read_weight_file

# The file that names the checkpoint to resume from.
TAG = "last_checkpoint"
_FAULTS_SHOWN = 3


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
    needed = list(parts)
    return next((name for name in checkpoints(folder) if not _fault(folder, name, needed)), None)


def checkpoints(folder: str) -> list[str]:
    """The names of all files of checkpoints in a folder, damaged ones too, the newest first.

    Args:
        folder: where to look; there are none in one that is not there.
    """
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        files = [entry for entry in entries if entry.name.endswith(".pth")]
    files.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns, reverse=True)
    return [entry.name for entry in files]


def faults(folder: str, parts: Iterable[str]) -> str:
    """Why none of the checkpoints in a folder can be resumed from.

    Args:
        folder: the run's folder, which has such files.
        parts: entries that a checkpoint must have.

    Returns:
        Part of a sentence that says it of the newest ones.
    """
    needed, names = list(parts), checkpoints(folder)
    found = [_fault(folder, name, needed) or f"{name} is intact" for name in names[:_FAULTS_SHOWN]]
    rest = len(names) - len(found)
    return ", ".join([*found, *([f"and {rest} more"] if rest else [])])


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
        f"the newest intact checkpoint beside it is {shown(newest)}: write that name into {TAG}, "
        "or give its path as MODEL.WEIGHTS"
    )


def _fault(folder: str, name: str, parts: Sequence[str]) -> str | None:
    """What is wrong with a checkpoint, in words; None for a whole one."""
    try:
        content = read_weight_file(os.path.join(folder, name), with_checksums=True)
    except WeightsError:
        return f"{shown(name)} is damaged or not a checkpoint"
    if not isinstance(content, dict):
        return f"{shown(name)} is not a checkpoint"
    missing = [part for part in parts if part not in content]
    return f"{shown(name)} has no state of {', '.join(missing)}" if missing else None
