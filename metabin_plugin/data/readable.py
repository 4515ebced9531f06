"""A fastreid dataset that says which image it could not read, and why."""

from __future__ import annotations

import os
from typing import Any

from fastreid.data.common import CommDataset
from fastreid.data.data_utils import read_image
from PIL import Image, UnidentifiedImageError

from metabin_plugin.errors import DatasetError


class ReadableDataset(CommDataset):
    """fastreid's dataset of image items, for images of any mode, with a clear error for bad ones.

    Args:
        img_items: one ``(path, identity, camera)`` for each image.
        transform: what turns a PIL image into a tensor.
        relabel: whether identities and cameras are numbered from 0.
    """

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the item of an image, under fastreid's names.

        Raises:
            DatasetError: the image is missing, empty, truncated or no image.
        """
        path, identity, camera = self.img_items[index][:3]
        image = _read_rgb(path)
        return {
            "images": image if self.transform is None else self.transform(image),
            "targets": self.pid_dict[identity] if self.relabel else identity,
            "camids": self.cam_dict[camera] if self.relabel else camera,
            "img_paths": path,
        }


def _read_rgb(path: str) -> Image.Image:
    # fastreid's default reads transparency as a fourth channel and a palette as brightness.
    try:
        return read_image(path, format="RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"Image {path} {_fault(path, error)}; restore the file or take it out of the dataset."
        ) from error


def _fault(path: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "is empty" if os.path.getsize(path) == 0 else "is not an image"
    return f"cannot be read ({error})"
