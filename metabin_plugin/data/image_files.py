"""The image files below a folder."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from metabin_plugin.data.images import is_foreign, readable_formats
from metabin_plugin.text import shown


class FoundFiles(NamedTuple):
    """The files below a folder, as paths relative to it, in the order of their names.

    Attributes:
        images: those with the suffix, in any case, of one of ``FORMATS`` that Pillow reads.
        others: the rest, and what has such a suffix but is not a file.
        links: links to folders that were not followed, as what they lead to is read anyway.
    """

    images: list[str]
    others: list[str]
    links: list[str]

    def foreign(self) -> list[str]:
        """Those of the others that are photographs in a format that Pillow does not read."""
        return [path for path in self.others if is_foreign(path)]

    def left_out(self) -> str:
        """Lines that say which photographs and folders are left out, and why; "" for none."""
        lines, foreign = [], self.foreign()
        if foreign:
            what = f"{len(foreign)} photographs that Pillow does not read; convert them to JPEG"
            lines.append(f"left out: {what} ({shown(foreign[0])})")
        if self.links:
            names = ", ".join(map(shown, self.links))
            lines.append(f"left out: links to folders that are read without them ({names})")
        return "\n".join(lines)


def find_files(folder: str) -> FoundFiles:
    """All files below a folder but hidden ones; hidden folders are not entered.

    Links to other folders are followed, so that photographs may lie on several disks. Each folder
    is read once, by its own path if it has one below ``folder``: a link to a folder that is read
    anyway, or that holds ``folder``, is left out.

    Args:
        folder: a folder.

    Raises:
        OSError: a folder cannot be read; its ``filename`` is the folder.
    """
    readable = readable_formats()
    suffixes = {suffix for suffix, kind in Image.EXTENSION.items() if kind in readable}
    found = FoundFiles([], [], [])
    # A link to what holds the folder would bring in everything beside it.
    read = {_place(str(holder)) for holder in Path(os.path.realpath(folder)).parents}
    folders, links = [""], deque[str]()
    while folders or links:
        # All that needs no link comes first.
        below = folders.pop() if folders else links.popleft()
        path = os.path.join(folder, below) if below else folder
        place = _place(path)
        if place in read:
            found.links.append(below)
            continue
        read.add(place)
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name, suffix = os.path.join(below, entry.name), os.path.splitext(entry.name)[1]
                if entry.name.startswith("."):
                    continue
                if os.path.isdir(entry.path):
                    (links if entry.is_symlink() else folders).append(name)
                elif suffix.lower() in suffixes and os.path.isfile(entry.path):
                    found.images.append(name)
                else:
                    found.others.append(name)
    return FoundFiles(*map(sorted, found))


def _place(folder: str) -> tuple[int, int] | str:
    """What a folder is on its disk, by whatever path it is reached."""
    status = os.stat(folder)
    # Some file systems number nothing.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)
