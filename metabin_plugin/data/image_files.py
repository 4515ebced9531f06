"""The image files below a folder."""

from __future__ import annotations

import os
from typing import NamedTuple

from PIL import Image

from metabin_plugin.text import shown

# What telephones and cameras write and Pillow reads with another package, or not at all.
FOREIGN_PHOTOGRAPHS = frozenset(
    [".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".nef", ".orf", ".rw2"]
)


class FoundFiles(NamedTuple):
    """The files below a folder, as paths relative to it, in the order of their names.

    Attributes:
        images: those with the suffix, in any case, of a format that Pillow reads.
        others: the rest.
    """

    images: list[str]
    others: list[str]

    def foreign(self) -> list[str]:
        """Those of the others that are photographs in a format that Pillow does not read."""
        return [path for path in self.others if is_foreign(path)]

    def left_out(self) -> str:
        """A line that says how many photographs are foreign, and what to do; "" for none."""
        foreign = self.foreign()
        if not foreign:
            return ""
        what = f"{len(foreign)} photographs that Pillow does not read; convert them to JPEG"
        return f"left out: {what} ({shown(foreign[0])})"


def find_files(folder: str) -> FoundFiles:
    """All files below a folder but hidden ones; hidden folders are not entered.

    Args:
        folder: a folder; links to other folders are followed nowhere.

    Raises:
        OSError: a folder cannot be read; its ``filename`` is the folder.
    """
    Image.init()
    suffixes = {suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN}
    found = FoundFiles([], [])
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                kind = found.images if _suffix(name) in suffixes else found.others
                kind.append(os.path.relpath(os.path.join(parent, name), folder))
    return FoundFiles(sorted(found.images), sorted(found.others))


def is_foreign(path: str) -> bool:
    """Whether a file that Pillow cannot read has the suffix of a photograph."""
    return _suffix(path) in FOREIGN_PHOTOGRAPHS


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _raise(error: OSError) -> None:
    raise error
