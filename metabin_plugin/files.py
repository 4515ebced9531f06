"""Opening files that may come from elsewhere, and writing files whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from metabin_plugin.errors import MetaBINError

# What is behind the name of a file that ``replace_file`` writes, until it is complete.
PARTIAL = re.compile(r"\.[0-9a-f]{8}\.partial")


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading, and refuse what is not one.

    Opening a pipe waits for a writer, and a device has no end: a name that comes from elsewhere
    may stand for either.

    Args:
        path: the file; links are followed.

    Raises:
        OSError: it cannot be opened, or is a folder, pipe, socket or device.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise _not_regular(path)


def is_file_name(name: object) -> bool:
    """Whether something is the name of a file inside a folder: text, and no path to elsewhere.

    Args:
        name: what a file from elsewhere gives as a name.
    """
    if not isinstance(name, str) or name in ("", os.curdir, os.pardir):
        return False
    return name.isprintable() and not any(sign in name for sign in "/\\:")


def name_in_text(path: str) -> str:
    """The name of a file as a text file in UTF-8 shall have it, whatever the locale's encoding is.

    Args:
        path: as the operating system gave it, with the bytes that it could not decode escaped.

    Raises:
        UnicodeDecodeError: the name is not UTF-8.
    """
    return path.encode("utf-8", "surrogateescape").decode("utf-8")


def name_on_disk(text: str) -> str:
    """The name of a file, as it is opened, that a text file in UTF-8 or a user has given.

    Args:
        text: the name; what the locale's encoding cannot express is what ``name_in_text`` made of
            an escaped one.
    """
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    return text


def _not_regular(path: str | os.PathLike[str]) -> OSError:
    return OSError(errno.EINVAL, "Not a regular file", os.fspath(path))


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether there is something else than a file or folder, as /dev/null or /dev/stdout is."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def replace_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside the one it replaces, and rename it when it is complete.

    At any moment, a killed process or a power cut included, ``path`` is either the file as it was
    or the new one, also where several processes write it at once: the last to end wins. A killed
    process may leave ``<path>.<eight hexadecimal digits>.partial``, which the next write removes. A
    link of the name ``path`` is replaced; what it leads to is not touched.

    Args:
        path: the file to write; its folder must exist.
        write: writes the content into the open binary file that it is given.

    Raises:
        OSError: the file cannot be written, or ``path`` is a device, pipe or socket, and is as it
            was. Exceptions of ``write`` pass on in the same way.
    """
    if _is_special(path):
        raise _not_regular(path)
    _remove_abandoned(os.fspath(path))
    file, partial = _open_partial(os.fspath(path))
    try:
        with file:
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


def _open_partial(path: str) -> tuple[BinaryIO, str]:
    """A new file beside another one, and its name; no other process takes it for abandoned."""
    while True:
        # Another process may be writing the same file, and would take one of a fixed name for its
        # own.
        partial = f"{path}.{secrets.token_hex(4)}.partial"
        # Exclusive, so that no link is followed.
        file: BinaryIO = open(partial, "xb")  # noqa: SIM115
        _hold(file)
        # One that looked before it was held may have removed it.
        if os.path.lexists(partial):
            return file, partial
        file.close()


def _remove_abandoned(path: str) -> None:
    """Remove what killed processes have left of writing a file."""
    folder, name = os.path.split(path)
    is_partial = re.compile(re.escape(name) + PARTIAL.pattern).fullmatch
    # What cannot be removed is in nobody's way.
    with suppress(OSError):
        with os.scandir(folder or ".") as entries:
            found = [e for e in entries if is_partial(e.name) and e.is_file(follow_symlinks=False)]
        for entry in found:
            with suppress(OSError):
                if not _is_held(entry.path):
                    os.remove(entry.path)


if sys.platform == "win32":

    def _hold(_file: BinaryIO) -> None:
        """Nothing: a file that is open cannot be removed there."""

    def _is_held(_path: str) -> bool:
        return False
else:
    import fcntl

    def _hold(file: BinaryIO) -> None:
        """Mark an open file, until it is closed or this process ends."""
        # Some network file systems cannot lock; there nothing is taken for abandoned either.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)

    def _is_held(path: str) -> bool:
        with open_regular(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False


def reason(error: BaseException) -> str:
    """The operating system's words for an error, where they are behind it; else its first line.

    Args:
        error: of reading, writing or parsing a file.
    """
    cause = system_error(error)
    if cause is not None:
        return str(cause.strerror)
    return (str(error).splitlines() or [type(error).__name__])[0]


def system_error(error: BaseException) -> OSError | None:
    """The operating system's error behind another one, or that one itself; None without one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


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


def check_file(path: Path, option: str, error: type[MetaBINError]) -> None:
    """Refuse a path that no file can have before the work is done, and make its folder.

    Args:
        path: the file.
        option: what names it, for the sentence.
        error: what to raise where it is a folder, device, pipe or socket, or there can be no folder
            for it.
    """
    if path.is_dir():
        raise error(f"{option} {path} is a folder; give the path of a file")
    if _is_special(path):
        raise error(f"{option} {path} is not a regular file; give the path of one")
    make_folder_of(path, error)


def check_not_read(
    path: Path, option: str, read: Iterable[str | os.PathLike[str]], error: type[MetaBINError]
) -> None:
    """Refuse to write over a file that the same command reads.

    Args:
        path: the file to write, which may be there.
        option: what names it, for the sentence.
        read: files, and folders and names of other things, which no file is.
        error: what to raise where it is one of them.
    """
    if path.exists() and any(os.path.exists(one) and os.path.samefile(path, one) for one in read):
        raise error(f"{option} {path} is a file that is read; give another path")


def check_table(path: Path, columns: Iterable[str], option: str, error: type[MetaBINError]) -> None:
    """Refuse to write a table over a file that is there and is not an earlier one of its kind.

    Args:
        path: a CSV file whose name follows from another file's.
        columns: the names of its columns.
        option: what names that other file, for the sentence.
        error: what to raise where another file is in its place: a manifest for example.
    """
    try:
        with open_regular(path) as file:
            found = file.readline(1 << 16)
    except FileNotFoundError:
        return
    except OSError:
        found = b"?"
    if found and found.rstrip(b"\r\n") != ",".join(columns).encode():
        raise error(
            f"{option} would put its numbers into {path}, which is another file; give another path"
        )


def make_folder_of(path: Path, error: type[MetaBINError]) -> None:
    """Make the folder of a file that is to be written, before the work for it is done.

    Args:
        path: the file.
        error: what to raise where there can be no such folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise _not_written(path, fault, error) from fault


def write_whole(path: Path, write: Callable[[BinaryIO], object], error: type[MetaBINError]) -> None:
    """Write a file, complete or not at all.

    Args:
        path: the file.
        write: writes the content into the open binary file that it is given.
        error: what to raise where it cannot be written.
    """
    try:
        replace_file(path, write)
    except OSError as fault:
        raise _not_written(path, fault, error) from fault


def _not_written(path: Path, fault: OSError, error: type[MetaBINError]) -> MetaBINError:
    return error(
        f"{path} cannot be written ({reason(fault)}); give a path that can, with space for it"
    )
