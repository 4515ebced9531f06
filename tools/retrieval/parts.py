"""Features of a large gallery on disk in parts, to go on from after a stop."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from metabin_plugin.files import reason
from metabin_plugin.text import shown
from retrieval.faults import SearchError, write_file
from retrieval.progress import Progress
from retrieval.vectors import NpyVectors

IMAGES = 2048
_NAME = re.compile(r"\d{6,}-[0-9a-f]{16}\.(npy|json)(\.partial)?")
Describe = Callable[[Sequence[str]], tuple[np.ndarray, list[str]]]


class Parts:
    """A folder beside an index, with the features of its images as far as they are computed.

    Args:
        output: path of the index; the folder is ``<output>.parts``.
        paths: the images.
        source: all else that the features depend on, the network above all. What another source
            or other images have left in the folder is removed.
        size: images whose features are one file.

    Raises:
        SearchError: the folder cannot be written, or is someone else's: a link, or with other
            files in it. Nothing of it is removed then.
    """

    def __init__(
        self, output: Path, paths: Sequence[str], source: Sequence[str], size: int = IMAGES
    ) -> None:
        self.folder = output.with_name(f"{output.name}.parts")
        self.total = len(paths)
        self._parts: dict[Path, Sequence[str]] = {}
        for number, start in enumerate(range(0, len(paths), size)):
            part = paths[start : start + size]
            name = f"{number:06d}-{_digest([*source, *map(_identity, part)])}.npy"
            self._parts[self.folder / name] = part
        try:
            self.folder.mkdir(exist_ok=True)
            for path in self._own_files():
                if path.with_suffix(".npy") not in self._parts:
                    path.unlink()
        except OSError as error:
            raise SearchError(
                f"{self.folder} cannot be written ({reason(error)}); remove it, or give another "
                "--output"
            ) from error

    @property
    def done(self) -> int:
        """Number of images whose features are in the folder."""
        return sum(len(part) for path, part in self._parts.items() if path.is_file())

    def complete(self, describe: Describe) -> list[str]:
        """Compute what is missing.

        Args:
            describe: gives the features of some images, and a text for each, "" if it can be read.

        Returns:
            The text for each image; features of those with one are left out of ``vectors``.
        """
        progress = Progress("images described", self.total, self.done)
        for path, part in self._parts.items():
            if path.is_file():
                continue
            features, faults = describe(part)
            self._write(path, features[[fault == "" for fault in faults]], faults)
            progress.add(len(faults))
        texts = [path.with_suffix(".json").read_text(encoding="utf-8") for path in self._parts]
        return [fault for text in texts for fault in json.loads(text)]

    def vectors(self) -> NpyVectors:
        """The features of all readable images.

        Raises:
            SearchError: there are none.
        """
        files = [path for path in self._parts if len(np.load(path, mmap_mode="r"))]
        if not files:
            raise SearchError(f"none of {self.total} images can be read; name another --gallery")
        return NpyVectors(files)

    def remove(self) -> None:
        """Remove the folder, whose content is in the index now, but for what others put there."""
        with suppress(OSError):
            for path in self._parts:
                path.unlink()
                path.with_suffix(".json").unlink()
            self.folder.rmdir()

    def _own_files(self) -> list[Path]:
        files = list(self.folder.iterdir())
        others = [path.name for path in files if not _NAME.fullmatch(path.name)]
        if others or self.folder.is_symlink():
            what = f"holds {shown(others[0])}" if others else "is a link"
            raise SearchError(
                f"{self.folder} {what}, which `index` did not make; move it away, or give another "
                "--output"
            )
        return files

    def _write(self, path: Path, features: np.ndarray, faults: list[str]) -> None:
        text = json.dumps(faults).encode()
        write_file(path.with_suffix(".json"), lambda file: file.write(text))
        # Last the file whose presence says that the part is complete.
        write_file(path, lambda file: np.save(file, features))


def _identity(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return path
    return f"{path}\0{status.st_size}\0{status.st_mtime_ns}"


def _digest(texts: Sequence[str]) -> str:
    summed = hashlib.sha256()
    for text in texts:
        summed.update(json.dumps(text).encode() + b"\n")
    return summed.hexdigest()[:16]
