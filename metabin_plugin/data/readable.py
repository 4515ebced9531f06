"""A fastreid dataset that says which image it could not read, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastreid.data.common import CommDataset
from PIL import Image, ImageOps, UnidentifiedImageError

from metabin_plugin.data.image_files import is_foreign
from metabin_plugin.data.image_formats import FORMATS, TooManyPixelsError, open_image
from metabin_plugin.errors import DatasetError
from metabin_plugin.text import shown


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
            DatasetError: the image cannot be read, see ``read_rgb``.
        """
        path, identity, camera = self.img_items[index][:3]
        image = read_rgb(path)
        return {
            "images": image if self.transform is None else self.transform(image),
            "targets": self.pid_dict[identity] if self.relabel else identity,
            "camids": self.cam_dict[camera] if self.relabel else camera,
            "img_paths": path,
        }


def read_rgb(path: str) -> Image.Image:
    """Read an image whole, of any mode, the way it is meant to be seen.

    Args:
        path: the image file; of an animation the first picture is taken.

    Returns:
        The image in mode RGB, turned as its EXIF data says.

    Raises:
        DatasetError: the image is missing, empty, truncated, no image or no file, has too many
            pixels, or has more than 8 bits per channel and is grey.
    """
    # fastreid's default reads transparency as a fourth channel and a palette as brightness.
    try:
        with open_image(path) as image:
            image.load()
            mode = image.mode
            rgb = _upright(image).convert("RGB")
    # On broken files Pillow's decoders raise whatever their parsing stumbles over.
    except Exception as error:
        raise DatasetError(f"Image {shown(path)} {_fault(path, error)}.") from error
    if mode[0] in "IF":
        raise DatasetError(
            f"Image {shown(path)} has grey values of more than 8 bits (mode {mode}), nearly all of "
            "which would become white; convert it to 8 bits."
        )
    return rgb


def _upright(image: Image.Image) -> Image.Image:
    # As fastreid does, an image whose EXIF data are damaged is taken as it lies.
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _fault(path: str, error: Exception) -> str:
    remedy = "restore the file or take it out of the dataset"
    if isinstance(error, FileNotFoundError):
        return f"does not exist; {remedy}"
    if isinstance(error, UnidentifiedImageError):
        if not Path(path).stat().st_size:
            return f"is empty; {remedy}"
        if is_foreign(path):
            return "has a format that Pillow does not read; convert it to JPEG"
        return f"is not an image of the formats {', '.join(FORMATS)}; {remedy}"
    if isinstance(error, TooManyPixelsError):
        return f"has {error}; make it smaller, or take it out of the dataset"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot be read ({shown(text) or type(error).__name__}); {remedy}"
