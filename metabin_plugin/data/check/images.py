"""Reading every image once, in several processes: its size, and what tells its copies."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from metabin_plugin.data.build import datasets_root
from metabin_plugin.data.images import read_rgb
from metabin_plugin.data.manifest import find_manifest, is_manifest
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import name_on_disk, open_regular, reason, replace_file
from metabin_plugin.workers import WorkerLoader

# Images that a process reads between two messages to the main one.
_CHUNK = 16

# Width and height of the small picture by which a copy in another format or size is known.
_SMALL = (4, 8)
# Standard deviation of its values, of 255, below which too little is left to tell a picture by.
_LEAST_CONTRAST = 4


class Picture(NamedTuple):
    """What is kept of an image.

    Attributes:
        size: width and height in pixels.
        pixels: hash of its pixels; files of any name and format with equal pixels have the same.
        small: the image reduced to a vector of length 1, without its mean colour; a copy in
            another format or size has nearly the same. None for an image of too little contrast.
    """

    size: tuple[int, int]
    pixels: bytes
    small: np.ndarray | None


class _Files(Dataset[Picture | str]):
    """Images, or the sentence that says why one cannot be read."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Picture | str:
        try:
            image = read_rgb(self.paths[index])
        except DatasetError as error:
            return str(error)
        pixels = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
        pixels.update(image.tobytes())
        return Picture(image.size, pixels.digest(), _small(image))


def _small(image: Image.Image) -> np.ndarray | None:
    values = np.asarray(image.resize(_SMALL, Image.Resampling.BOX), np.float32)
    values = (values - values.mean((0, 1))).ravel()
    return values / np.linalg.norm(values) if values.std() >= _LEAST_CONTRAST else None


def read_pictures(
    paths: Iterable[str], workers: int
) -> tuple[dict[str, Picture], list[DatasetError]]:
    """Decode images whole, as training does.

    Args:
        paths: image files; each is read once.
        workers: number of reading processes; 0 reads in this one.

    Returns:
        What is kept of each readable image, by its path, and an error for each other one.
    """
    files = _Files(list(dict.fromkeys(paths)))
    loader = WorkerLoader(
        workers_key="--workers",
        dataset=files,
        batch_size=_CHUNK,
        num_workers=workers,
        collate_fn=list,
    )
    results = [result for chunk in loader for result in chunk]
    named = list(zip(files.paths, results, strict=True))
    pictures = {path: result for path, result in named if not isinstance(result, str)}
    return pictures, [DatasetError(result) for result in results if isinstance(result, str)]


def drop_images(names: Iterable[str], images: Collection[str]) -> dict[str, int]:
    """Rewrite manifests without the lines of some images; everything else in them stays.

    Args:
        names: of datasets and manifests; datasets, and files that are no manifests, are left
            alone.
        images: paths as the manifests' rows give them, with the manifest's folder.

    Returns:
        How many lines each manifest lost, where it lost any.

    Raises:
        DatasetError: a manifest cannot be written; it is as it was.
    """
    manifests = [name for name in dict.fromkeys(names) if is_manifest(name)]
    dropped = {name: _drop(name, images) if images else 0 for name in manifests}
    return {name: count for name, count in dropped.items() if count}


def _drop(name: str, images: Collection[str]) -> int:
    try:
        manifest = find_manifest(name, datasets_root())
        with open_regular(manifest) as file:
            text = file.read().decode("utf-8-sig")
        lines = [cells for cells in csv.reader(io.StringIO(text, newline="")) if cells]
        path = [column.strip() for column in lines[0]].index("path")
    # No rows of such a file were read; the check has said why.
    except (DatasetError, OSError, ValueError, IndexError, csv.Error):
        return 0

    def is_kept(cells: list[str]) -> bool:
        if path >= len(cells):
            return True
        return str(manifest.parent / name_on_disk(cells[path].strip())) not in images

    kept = [lines[0], *filter(is_kept, lines[1:])]
    if len(kept) == len(lines):
        return 0
    written = io.StringIO()
    # Not quoted against spreadsheets (``as_cell``): these paths are read again.
    csv.writer(written, lineterminator="\n").writerows(kept)
    try:
        replace_file(manifest, lambda file: file.write(written.getvalue().encode()))
    except OSError as error:
        raise DatasetError(
            f"Manifest {manifest} cannot be written ({reason(error)}); make it writable"
        ) from error
    return len(lines) - len(kept)
