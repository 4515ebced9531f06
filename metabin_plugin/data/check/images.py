"""Reading every image once, in several processes: its size, and what tells its copies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from metabin_plugin.data.readable import read_rgb
from metabin_plugin.errors import DatasetError
from metabin_plugin.worker_loader import WorkerLoader

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
