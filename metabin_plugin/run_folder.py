"""The folder of a run, ``OUTPUT_DIR``: whose it is, and what a run leaves in it."""

from __future__ import annotations

import errno
import fnmatch
import json
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress

from metabin_plugin.errors import RunFolderError
from metabin_plugin.files import reason, replace_file
from metabin_plugin.text import shown

logger = logging.getLogger(__name__)

CONFIG, METRICS = "config.yaml", "metrics.json"
_LOCK, _TAG = ".lock", "last_checkpoint"
_CHECKPOINTS = "model_*.pth"
# What a run writes, whole or line by line.
_OWN = (
    *(CONFIG, METRICS, _LOCK, _TAG, _CHECKPOINTS, "log.txt", "log.txt.rank*"),
    *("results.json", "results.csv", "operating_points*.csv", "operating_points.png"),
    *("events.out.tfevents.*", "*.partial"),
)

# Somewhat more than a run writes before its first checkpoint.
_NEEDED_BYTES = 1 << 16
# Open lock files of this process, by folder. Closing one would give its lock away.
_locked: dict[str, int] = {}


def in_main_process(act: Callable[[], None]) -> None:
    """Let the main process act on the folder of a run; all processes raise what it raises.

    Args:
        act: what to do.

    Raises:
        RunFolderError: what ``act`` raised.
    """
    # Here, for the patches use this module, and are there before fastreid can be imported.
    from fastreid.utils import comm

    fault = ""
    if comm.is_main_process():
        try:
            act()
        except RunFolderError as error:
            fault = str(error)
    fault = comm.all_gather(fault)[0]
    if fault:
        raise RunFolderError(fault)


def trace_of_run(folder: str) -> str:
    """A file that only a run leaves, and that the next one could take for its own.

    Args:
        folder: an ``OUTPUT_DIR``; it need not exist.

    Returns:
        Its name; "" if there is none. A log, or a config alone, is none.
    """
    for name in sorted(_names(folder)):
        path = os.path.join(folder, name)
        if name == _TAG or fnmatch.fnmatchcase(name, _CHECKPOINTS):
            return name
        if name == METRICS and os.path.isfile(path) and os.path.getsize(path):
            return name
    return ""


def prepare_folder(folder: str) -> None:
    """Make the folder of a run, and refuse one in which writing would change files elsewhere.

    A folder that comes from elsewhere can have links under the names of a run's files.

    Args:
        folder: the ``OUTPUT_DIR``; it may be a link to a folder itself.

    Raises:
        RunFolderError: the folder can be neither found nor made, or nothing can be written into it,
            or a file that a run writes is a link, a pipe or anything else than a file.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        names = os.listdir(folder)
    # A name with a null byte is a ValueError.
    except (OSError, ValueError) as error:
        raise _unusable(folder, error) from error
    for name in sorted(names):
        if not any(fnmatch.fnmatchcase(name, own) for own in _OWN):
            continue
        path = os.path.join(folder, name)
        with suppress(FileNotFoundError):
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode):
                kind = "a link" if stat.S_ISLNK(mode) else "not a file"
                raise RunFolderError(
                    f"{shown(path)} is {kind}, where a run writes a file of its own; remove it, or "
                    "give another OUTPUT_DIR"
                )
    try:
        # Of a full disk, before a file of a run is cut short on it.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_NEEDED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unusable(folder, error) from error


def begin_run(folder: str, resumes: bool) -> None:
    """Take a folder for a training of this process, until ``end_run`` or the end of the process.

    Args:
        folder: the ``OUTPUT_DIR``.
        resumes: whether the training may go on from what is in the folder.

    Raises:
        RunFolderError: as :func:`prepare_folder` does; or another process trains in the folder, or
            it holds a run that this one does not go on with.
    """
    prepare_folder(folder)
    _lock(folder)
    trace = "" if resumes else trace_of_run(folder)
    if trace:
        end_run(folder)
        raise RunFolderError(
            f"OUTPUT_DIR {shown(folder)} holds a run already ({trace}); go on with that one by "
            "--resume, give another OUTPUT_DIR, or remove the folder"
        )
    # Of a run that was killed while it wrote one: as large as a checkpoint, and of no use.
    for name in fnmatch.filter(_names(folder), f"{_CHECKPOINTS}*.partial"):
        with suppress(OSError):
            os.remove(os.path.join(folder, name))


def end_run(folder: str) -> None:
    """Give back what ``begin_run`` took; without it, do nothing."""
    handle = _locked.pop(os.path.realpath(folder), None)
    if handle is not None:
        os.close(handle)


def write_config(folder: str, text: str) -> None:
    """Write the config of a run, whole or not at all.

    Args:
        folder: the ``OUTPUT_DIR``.
        text: what ``CfgNode.dump`` returns.

    Raises:
        RunFolderError: it cannot be written; what was there is as it was.
    """
    try:
        replace_file(os.path.join(folder, CONFIG), lambda file: file.write(text.encode()))
    except OSError as error:
        raise _unusable(folder, error) from error


def logged_scalars(line: bytes) -> tuple[int, Mapping[str, float]] | None:
    """The iteration and the scalars of a line of ``metrics.json``.

    Args:
        line: the line with its end.

    Returns:
        None for a line that is damaged, or cut short by a kill.
    """
    if not line.endswith(b"\n"):
        return None
    try:
        values = json.loads(line)
        iteration = int(values.pop("iteration"))
        return iteration, {str(name): float(value) for name, value in values.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _unusable(folder: str, error: Exception) -> RunFolderError:
    return RunFolderError(
        f"OUTPUT_DIR {shown(folder)} cannot be written ({reason(error)}); give a folder that can, "
        "with space for checkpoints"
    )


def _lock(folder: str) -> None:
    place, path = os.path.realpath(folder), os.path.join(folder, _LOCK)
    if place in _locked and _is_open_at(_locked[place], path):
        return
    end_run(folder)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        raise _unusable(folder, error) from error
    if not _try_lock(handle):
        os.close(handle)
        raise RunFolderError(
            f"OUTPUT_DIR {shown(folder)} is in use by a run that is still going on; wait for its "
            "end, or give another OUTPUT_DIR"
        )
    _locked[place] = handle


def _is_open_at(handle: int, path: str) -> bool:
    """Whether an open file is still the one of that name, as the folder may have been removed."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            return error.errno != errno.EACCES
        return True
else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            # Ends with this process, which a lock that loader workers inherit would not.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Some network file systems cannot lock; there the run goes on without.
            return error.errno not in (errno.EACCES, errno.EAGAIN)
        return True
