"""Images as training and evaluation read them: which formats, how, and what is wrong with one."""

from __future__ import annotations

import copy
import itertools
import mmap
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fastreid.data.common import CommDataset
from PIL import Image, ImageOps, UnidentifiedImageError

from metabin_plugin.errors import DatasetError
from metabin_plugin.files import open_regular
from metabin_plugin.text import shown

# Pillow takes more for images: for some it starts other programs, Ghostscript for EPS.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "AVIF")
# The frame of an 8K camera has half as many. A PNG of 21 kB can have so many that they take 1.8 GB.
MAX_PIXELS = 1 << 26
# A progressive JPEG has about 10. Each is decoded over the whole image, and a file of some hundred
# kB can have thousands.
MAX_SCANS = 64
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Markers from here on are followed by a length, but for those of restarts and of an image's start.
_FIRST_SEGMENT, _WITHOUT_LENGTH = 0xC0, range(0xD0, 0xD9)
# What telephones and cameras write and Pillow reads with another package, or not at all.
FOREIGN_PHOTOGRAPHS = frozenset(
    [".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jp2", ".nef", ".orf", ".rw2"]
)


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
            **self._views(image),
            "targets": self.pid_dict[identity] if self.relabel else identity,
            "camids": self.cam_dict[camera] if self.relabel else camera,
            "img_paths": path,
        }

    def _views(self, image: Image.Image) -> dict[str, Any]:
        return {"images": image if self.transform is None else self.transform(image)}


class Source(NamedTuple):
    """A dataset among those whose images are joined.

    Attributes:
        label: its name, without the folder.
        size: number of its images.
    """

    label: str
    size: int


class DomainDataset(ReadableDataset):
    """Training images with identity, camera and domain.

    Args:
        img_items: one ``(path, identity, camera)`` for each image.
        domains: domain of each image, an index in [0, K).
        domain_names: names of the K domains.
        transform: what turns a PIL image into a tensor.
        relabel: whether identities and cameras are numbered from 0.

    Attributes:
        sources: where the images are from, in their order; empty if that is not known.
        strong_transform: what turns a PIL image into the tensor of a second view; None for none.

    Raises:
        DatasetError: images and domains differ in number, or a domain has no name or no image.
    """

    def __init__(
        self,
        img_items: Sequence[Sequence[Any]],
        domains: Sequence[int],
        domain_names: Sequence[str],
        transform: Callable[[Any], Any] | None = None,
        relabel: bool = True,
    ) -> None:
        super().__init__(img_items, transform, relabel)
        if len(img_items) != len(domains):
            raise DatasetError(
                f"There are {len(img_items)} images but {len(domains)} domain labels; give one "
                "for each image"
            )
        if set(domains) != set(range(len(domain_names))):
            raise DatasetError(
                f"The domain labels are {sorted(set(domains))} but there are {len(domain_names)} "
                "domain names; number the domains from 0 and give each a name and images"
            )
        self.domains = list(domains)
        self.domain_names = list(domain_names)
        self.sources: list[Source] = []
        self.strong_transform: Callable[[Any], Any] | None = None

    @property
    def num_domains(self) -> int:
        """K, the number of domains."""
        return len(self.domain_names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return fastreid's item of an image, and its domain as ``"domains"``.

        With a ``strong_transform`` there is ``"images_strong"``, too.
        """
        return {**super().__getitem__(index), "domains": self.domains[index]}

    def with_one_view(self) -> DomainDataset:
        """The same images without the second view; itself where there is none."""
        if self.strong_transform is None:
            return self
        other = copy.copy(self)
        other.strong_transform = None
        return other

    def _views(self, image: Image.Image) -> dict[str, Any]:
        views = super()._views(image)
        if self.strong_transform is not None:
            # After the first, which is thus the same as without it.
            views["images_strong"] = self.strong_transform(image)
        return views


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
        raise DatasetError(f"Image {shown(path)} {_fault(path, error)}") from error
    if mode[0] in "IF":
        raise DatasetError(
            f"Image {shown(path)} has grey values of more than 8 bits (mode {mode}), nearly all of "
            "which would become white; convert it to 8 bits"
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


class TooManyPixelsError(ValueError):
    """An image has more than ``MAX_PIXELS``."""


class TooManyScansError(ValueError):
    """A JPEG has more than ``MAX_SCANS``."""


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image in one of ``FORMATS``, whatever its name says; no pixel is decoded yet.

    Args:
        path: of a regular file.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
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
        scans = itertools.islice(_scans(content), MAX_SCANS + 1)
        count = sum(1 for _ in scans)
    if count > MAX_SCANS:
        raise TooManyScansError(f"more than {MAX_SCANS} scans, where a JPEG has about 10")


def _scans(content: mmap.mmap) -> Iterator[int]:
    """The places of a JPEG's scans, as its decoder comes upon them.

    Text that a camera wrote into the file may hold the same bytes, and so may what is behind the
    image: a telephone's short film.
    """
    place = 0
    while found := _MARKER.search(content, place):
        marker, place = found[0][1], found.end()
        if marker == _END_OF_IMAGE:
            return
        if marker == _START_OF_SCAN:
            yield found.start()
        if marker >= _FIRST_SEGMENT and marker not in _WITHOUT_LENGTH:
            place += int.from_bytes(content[place : place + 2], "big")


def readable_formats() -> list[str]:
    """Those of the formats that this Pillow has."""
    Image.init()
    return [kind for kind in FORMATS if kind in Image.OPEN]


def is_foreign(path: str) -> bool:
    """Whether a file that Pillow cannot read has the suffix of a photograph."""
    return os.path.splitext(path)[1].lower() in FOREIGN_PHOTOGRAPHS


class FoundFiles(NamedTuple):
    """The files below a folder, as paths relative to it, in the order of their names.

    Attributes:
        images: those with the suffix, in any case, of one of ``FORMATS`` that Pillow reads.
        others: the rest, and what has such a suffix but is not a file.
        links: links to folders that were not followed, as what they lead to is read anyway.
    """

    images: list[str]
    others: list[str]
    links: list[str]

    def foreign(self) -> list[str]:
        """Those of the others that are photographs in a format that Pillow does not read."""
        return [path for path in self.others if is_foreign(path)]

    def left_out(self) -> str:
        """Lines that say which photographs and folders are left out, and why; "" for none."""
        lines, foreign = [], self.foreign()
        if foreign:
            what = f"{len(foreign)} photographs that Pillow does not read; convert them to JPEG"
            lines.append(f"left out: {what} ({shown(foreign[0])})")
        if self.links:
            names = ", ".join(map(shown, self.links))
            lines.append(f"left out: links to folders that are read without them ({names})")
        return "\n".join(lines)


def find_files(folder: str) -> FoundFiles:
    """All files below a folder but hidden ones; hidden folders are not entered.

    Links to other folders are followed, so that photographs may lie on several disks. Each folder
    is read once, by its own path if it has one below ``folder``: a link to a folder that is read
    anyway, or that holds ``folder``, is left out.

    Args:
        folder: a folder.

    Raises:
        OSError: a folder cannot be read; its ``filename`` is the folder.
    """
    readable = readable_formats()
    suffixes = {suffix for suffix, kind in Image.EXTENSION.items() if kind in readable}
    found = FoundFiles([], [], [])
    # A link to what holds the folder would bring in everything beside it.
    read = {_place(str(holder)) for holder in Path(os.path.realpath(folder)).parents}
    folders, links = [""], deque[str]()
    while folders or links:
        # All that needs no link comes first.
        below = folders.pop() if folders else links.popleft()
        path = os.path.join(folder, below) if below else folder
        place = _place(path)
        if place in read:
            found.links.append(below)
            continue
        read.add(place)
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name, suffix = os.path.join(below, entry.name), os.path.splitext(entry.name)[1]
                if entry.name.startswith("."):
                    continue
                if os.path.isdir(entry.path):
                    (links if entry.is_symlink() else folders).append(name)
                elif suffix.lower() in suffixes and os.path.isfile(entry.path):
                    found.images.append(name)
                else:
                    found.others.append(name)
    return FoundFiles(*map(sorted, found))


def _place(folder: str) -> tuple[int, int] | str:
    """What a folder is on its disk, by whatever path it is reached."""
    status = os.stat(folder)
    # Some file systems number nothing.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)
