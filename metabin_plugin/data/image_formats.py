"""The formats that images are read in, and opening one without trusting its name or its header."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from metabin_plugin.files import open_regular

# Pillow takes more for images: for some it starts other programs, Ghostscript for EPS.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "AVIF")
# The frame of an 8K camera has half as many. A PNG of 21 kB can have so many that they take 1.8 GB.
MAX_PIXELS = 1 << 26


class TooManyPixelsError(ValueError):
    """An image has more than ``MAX_PIXELS``."""


def readable_formats() -> list[str]:
    """Those of the formats that this Pillow has."""
    Image.init()
    return [kind for kind in FORMATS if kind in Image.OPEN]


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image in one of ``FORMATS``, whatever its name says; no pixel is decoded yet.

    Args:
        path: of a regular file.

    Raises:
        OSError: it cannot be opened, or is no regular file.
        PIL.UnidentifiedImageError: it is no image of these formats.
        TooManyPixelsError: its header says so.
    """
    with open_regular(path) as file:
        try:
            image = Image.open(file, formats=readable_formats())
        except Image.DecompressionBombError as error:
            raise TooManyPixelsError(f"more than {MAX_PIXELS:,} pixels") from error
        with image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width:,} x {image.height:,}"
                raise TooManyPixelsError(f"{size} pixels, which are more than {MAX_PIXELS:,}")
            yield image
