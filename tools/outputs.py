"""Writing what a command makes: complete or not at all, with a sentence where it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from metabin_plugin.errors import MetaBINError
from metabin_plugin.files import reason, replace_file


def check_file(path: Path, option: str, error: type[MetaBINError]) -> None:
    """Refuse a path that no file can have before the work is done, and make its folder.

    Args:
        path: the file.
        option: what names it, for the sentence.
        error: what to raise where it is a folder, or there can be no folder for it.
    """
    if path.is_dir():
        raise error(f"{option} {path} is a folder; give the path of a file")
    make_folder_of(path, error)


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
