"""Writing a file so that it is complete or not there at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO


def replace_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside the one it replaces, and rename it when it is complete.

    At any moment, a killed process or a power cut included, ``path`` is either the file as it was
    or the new one. A killed process may leave ``<path>.partial``, which the next write reuses.

    Args:
        path: the file to write; its folder must exist.
        write: writes the content into the open binary file that it is given.

    Raises:
        OSError: the file cannot be written, and ``path`` is as it was. Exceptions of ``write``
            pass on in the same way.
    """
    partial = f"{os.fspath(path)}.partial"
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            # Or a power cut could leave the new name with content that never reached the disk.
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.remove(partial)
        raise
    _sync_folder(os.path.dirname(os.path.abspath(path)))


def reason(error: BaseException) -> str:
    """The operating system's words for an error, where they are behind it; else its first line.

    Args:
        error: of reading, writing or parsing a file.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _sync_folder(folder: str) -> None:
    # Other systems than POSIX cannot open a folder.
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems keep no folder back and say so.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)
