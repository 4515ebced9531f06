"""Scan the folders of a dataset and parse its file names."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
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
        DatasetError: if the folder is missing or unreadable, holds no such image, or names do not
            match.
    """
    names = sorted(
        name
        for name in _list(release, folder)
        if Path(name).suffix.lower() == suffix and not name.startswith(".")
    )
    if not names:
        raise DatasetError(
            f"{release.title}: folder {folder} holds no {suffix} image; {remedy(release)}"
        )
    matches = {name: pattern.match(name) for name in names}
    _check_names(release, folder, [name for name, match in matches.items() if match is None])
    for name, match in matches.items():
        if match is not None:
            yield str(folder / name), match


def _list(release: Release, folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        fault = "is missing"
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    raise DatasetError(f"{release.title}: folder {folder} {fault}; {remedy(release)}")


def _check_names(release: Release, folder: Path, wrong: list[str]) -> None:
    if wrong:
        others = f" (nor do {len(wrong) - 1} others there)" if len(wrong) > 1 else ""
        raise DatasetError(
            f"{release.title}: the name of {folder / wrong[0]} does not follow the layout "
            f"{release.layout}{others}; rename it or move it out of the folder"
        )


def remedy(release: Release) -> str:
    """What an error text says about a file of a release that is not as expected."""
    return (
        f"expected {release.layout} under the datasets root (environment variable "
        f"FASTREID_DATASETS), from the page {release.home_page!r}"
    )


def require_images(
    release: Release, folder: Path, originals: Iterable[Path], tool: str, root: Path
) -> None:
    """Name the command that makes a missing folder of images, if what it reads is there.

    Args:
        release: the dataset.
        folder: the folder of images.
        originals: where the release may be; the first one that exists is named.
        tool: name of the script, which is called with the release and ``root``.
        root: the folder that holds all datasets.

    Raises:
        DatasetError: if the folder is missing although an original exists.
    """
    if folder.is_dir():
        return
    for original in originals:
        if original.exists():
            command = shlex.join(["python", f"tools/{tool}", str(original), str(root)])
            raise DatasetError(
                f"{release.title}: folder {folder} is missing, but {original} is there; make the "
                f"images once with `{command}`"
            )
