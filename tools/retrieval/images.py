"""Which images a gallery or a query has."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from metabin_plugin.data.image_files import find_files
from metabin_plugin.data.lookup import build_nonempty_dataset, datasets_root
from metabin_plugin.data.manifest_rows import is_manifest, read_rows
from metabin_plugin.text import shown
from retrieval.faults import SearchError


def find_gallery(name: str) -> tuple[str, list[str]]:
    """The images of a gallery.

    Args:
        name: a folder, with all below it; a manifest, of which the rows of subset ``gallery`` are
            taken, or all if there are none; or a registered data set, of which its gallery is.

    Returns:
        A folder, and the paths of the images relative to it, each once; absolute ones where the
        images are on several drives.

    Raises:
        SearchError: the folder holds no image.
        DatasetError: there is no such data set, or its files are not there.
    """
    if os.path.isdir(name):
        return os.path.abspath(name), find_images(name)
    if is_manifest(name):
        path = Path(name) if os.path.exists(name) else Path(datasets_root(), name)
        rows = read_rows(path)
        rows = [row for row in rows if row.subset == "gallery"] or rows
        paths = [row.path for row in rows]
    else:
        dataset = build_nonempty_dataset(name, ["gallery"], key="--gallery")
        paths = [item[0] for item in dataset.gallery]
    paths = [_absolute(path) for path in dict.fromkeys(paths)]
    folders = {os.path.dirname(path) for path in paths}
    try:
        folder = os.path.commonpath(folders)
    except ValueError:
        return min(folders), paths
    return folder, [os.path.relpath(path, folder) for path in paths]


def _absolute(path: str) -> str:
    # The operating system goes up from where a link leads to, not from where it is.
    if os.pardir in Path(path).parts:
        folder, name = os.path.split(path)
        return os.path.join(os.path.realpath(folder), name)
    return os.path.abspath(path)


def find_queries(names: Sequence[str]) -> list[str]:
    """The images that are asked for: files as given, folders with all images below them.

    Raises:
        SearchError: there is no such file, or a folder holds no image.
    """
    paths = []
    for name in names:
        if os.path.isdir(name):
            paths += [os.path.join(name, path) for path in find_images(name)]
        elif os.path.isfile(name):
            paths.append(name)
        else:
            raise SearchError(f"there is no image or folder {shown(name)}; correct its path")
    return paths


def find_images(folder: str) -> list[str]:
    """All files below a folder with the suffix of an image format, in the order of their paths.

    Hidden files and folders are left out; photographs in formats that Pillow does not read, and
    links to folders that are read without them, are too, but said to be (``find_files``).

    Args:
        folder: a folder.

    Returns:
        Paths relative to it.

    Raises:
        SearchError: there is none, or a folder cannot be read.
    """
    try:
        found = find_files(folder)
    except OSError as error:
        raise SearchError(
            f"folder {shown(str(error.filename))} cannot be read ({error.strerror}); make it "
            "readable"
        ) from error
    if found.left_out():
        print(found.left_out(), file=sys.stderr)
    if not found.images:
        raise SearchError(f"folder {shown(folder)} holds no image; name another one")
    return found.images
