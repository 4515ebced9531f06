"""Scan the folders of a dataset and parse its file names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from metabin_plugin.errors import DatasetError


@dataclass(frozen=True)
class Release:
    """What a dataset looks like on disk, as it is distributed.

    Attributes:
        title: the dataset's usual name.
        layout: one example path per kind of file, relative to the datasets root.
        home_page: name of the page where its authors offer it.
    """

    title: str
    layout: str
    home_page: str


def scan_folder(
    release: Release, folder: Path, suffix: str, pattern: re.Pattern[str]
) -> Iterator[tuple[str, re.Match[str]]]:
    """Iterate over the images of a folder in the order of their names.

    Hidden files (such as those that macOS puts in archives) and other suffixes are skipped.

    Args:
        release: the dataset, for the error texts.
        folder: the folder to read; its subfolders are not entered.
        suffix: lower-case suffix of the image files, with its dot.
        pattern: what the beginning of every file name must match.

    Yields:
        Path of the image and the match of its name.

    Raises:
        DatasetError: if the folder is missing, holds no such image, or a name does not match.
    """
    if not folder.is_dir():
        raise DatasetError(f"{release.title}: folder {folder} is missing; {_remedy(release)}.")
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.suffix.lower() == suffix and not entry.name.startswith(".")
    )
    if not names:
        raise DatasetError(
            f"{release.title}: folder {folder} holds no {suffix} image; {_remedy(release)}."
        )
    for name in names:
        match = pattern.match(name)
        if match is None:
            raise DatasetError(
                f"{release.title}: the name of {folder / name} does not follow the layout "
                f"{release.layout}; rename it or move it out of the folder."
            )
        yield str(folder / name), match


def _remedy(release: Release) -> str:
    return (
        f"expected {release.layout} under the datasets root (environment variable "
        f'FASTREID_DATASETS), from the page "{release.home_page}"'
    )
