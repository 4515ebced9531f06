"""The formats that images are read in, and opening one without trusting its name or its header."""

from __future__ import annotations

import itertools
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image

from metabin_plugin.files import open_regular

# Pillow takes more for images: for some it starts other programs, Ghostscript for EPS.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "AVIF")
# The frame of an 8K camera has half as many. A PNG of 21 kB can have so many that they take 1.8 GB.
MAX_PIXELS = 1 << 26
# A progressive JPEG has about 10. Each is decoded over the whole image, and a file of some hundred
# kB can have thousands.
MAX_SCANS = 64
_SCAN = b"\xff\xda"


class TooManyPixelsError(ValueError):
    """An image has more than ``MAX_PIXELS``."""


class TooManyScansError(ValueError):
    """A JPEG has more than ``MAX_SCANS``."""


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
        TooManyScansError: it is a JPEG of so many scans.
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
            # One with further pictures in it, as telephones make, is an MPO.
            if image.format in ("JPEG", "MPO"):
                _check_scans(file)
            yield image


def _check_scans(file: BinaryIO) -> None:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # The marker cannot occur within the data of a scan.
        scans = itertools.islice(re.finditer(_SCAN, content), MAX_SCANS + 1)
        count = sum(1 for _ in scans)
    if count > MAX_SCANS:
        raise TooManyScansError(f"more than {MAX_SCANS} scans, where a JPEG has about 10")
