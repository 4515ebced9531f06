"""Releases from which a tool makes the images once."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from metabin_plugin.data.datasets.scan import Release
from metabin_plugin.errors import DatasetError


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
                f"images once with `{command}`."
            )
