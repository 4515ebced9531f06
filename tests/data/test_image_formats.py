"""An image is opened in named formats, from a regular file, and not too large."""

from __future__ import annotations

import os
import stat
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastreid.data.data_utils import read_image
from PIL import EpsImagePlugin, Image, UnidentifiedImageError, features

from metabin_plugin.data.images import FORMATS, MAX_PIXELS, find_files, open_image, read_rgb
from metabin_plugin.errors import DatasetError
from tests.processes import apart

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 6, 3), dtype=np.uint8))
READ = {
    "JPEG": {},
    "PNG": {},
    "BMP": {},
    "DIB": {},
    "GIF": {},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {"lossless": True},
    "PPM": {},
    "AVIF": {},
}
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n/x 1 def\n%%EOF\n"


@pytest.mark.parametrize("kind", READ)
def test_the_formats_of_photographs_are_read_under_any_name(tmp_path: Path, kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / "photograph.jpg"
    PICTURE.save(path, kind, **READ[kind])
    image = read_rgb(str(path))
    assert (image.size, image.mode) == (PICTURE.size, "RGB")
    if kind not in ("JPEG", "GIF", "AVIF"):
        assert image.tobytes() == PICTURE.tobytes()


def test_several_pictures_in_one_file_are_the_first_one(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("TIFF", "WEBP", "MPO", "PNG"):
        path = tmp_path / f"{kind}.jpg"
        frames[0].save(path, kind, save_all=True, append_images=frames[1:], quality=100)
        red, _, blue = read_rgb(str(path)).getpixel((4, 4))
        assert red > 240 and blue < 15


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PCX", "TGA", "SGI", "ICO", "JPEG2000"])
def test_other_formats_are_refused_under_any_name(tmp_path: Path, kind: str) -> None:
    for name in ("photograph.jpg", "photograph.png"):
        PICTURE.save(tmp_path / name, kind)
        with pytest.raises(DatasetError, match="is not an image of the formats JPEG, "):
            read_rgb(str(tmp_path / name))


def test_no_other_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {ran}\necho 9.0\n")
    (tmp_path / "gs").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / "photograph.jpg"
    path.write_bytes(EPS)
    with Image.open(path) as image:
        assert image.format == "EPS"
        with pytest.raises(OSError):
            image.load()
    assert ran.exists()
    ran.unlink()
    with pytest.raises(DatasetError):
        read_rgb(str(path))
    with pytest.raises(UnidentifiedImageError):
        read_image(str(path))
    assert not ran.exists()


def black_png(width: int, height: int) -> bytes:
    """A PNG of black pixels: a few kB for any number."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checked = name + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + 4 * width)
    lines = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", lines), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    "size", [(8193, 8192), (12_000, 12_000), (100_000, 100_000), (MAX_PIXELS + 1, 1)]
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_before_they_are_decoded(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "bomb.png"
    content = bytearray(black_png(8, 8))
    content[16:24] = struct.pack(">II", *size)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"bomb\.png has .*more than 67,108,864.*make it smaller"
    ):
        read_rgb(str(path))
    with pytest.raises(ValueError, match="more than 67,108,864"):
        read_image(str(path))


def fault(path: str) -> str:
    try:
        read_rgb(path)
    except Exception as error:
        return type(error).__name__
    return ""


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(black_png(8193, 8192))
    assert path.stat().st_size < 1_000_000
    said, taken = apart(fault, str(path))
    assert said == "DatasetError"
    assert taken < 32 << 20


def test_as_many_pixels_as_allowed_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    content = bytearray(black_png(8, 8))
    content[16:24] = struct.pack(">II", 8192, 8192)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with open_image(path) as image:
        assert image.width * image.height == MAX_PIXELS


@pytest.mark.parametrize("read", [read_rgb, read_image])
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, read: Callable[[str], object]
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises((DatasetError, OSError), match="Not a regular file"):
            read(str(tmp_path / name))


def test_a_jpeg_of_thousands_of_scans_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    Image.new("L", (4_000, 4_000)).save(path, "JPEG", progressive=True)
    whole = path.read_bytes()
    assert read_rgb(str(path)).size == (4_000, 4_000)
    place = whole.rindex(b"\xff\xda")
    path.write_bytes(whole[:place] + whole[place:-2] * 3_000 + whole[-2:])
    before = time.process_time()
    with pytest.raises(DatasetError, match=r"scans\.jpg cannot be read \(more than 64 scans"):
        read_rgb(str(path))
    with pytest.raises(ValueError, match="more than 64 scans"):
        read_image(str(path))
    assert time.process_time() - before < 5


NOISE = np.random.default_rng(0).integers(0, 256, 16_000_000, np.uint8).tobytes()


@pytest.mark.parametrize("behind", [NOISE, b"\xff\xda" * 100], ids=["a film", "marks of scans"])
@pytest.mark.parametrize("progressive", [False, True])
def test_what_lies_behind_a_jpeg_is_none_of_its_scans(
    tmp_path: Path, behind: bytes, progressive: bool
) -> None:
    # Telephones put a film of some MB behind a photograph that "moves".
    path = tmp_path / "moving.jpg"
    Image.new("RGB", (40, 80), "red").save(path, "JPEG", progressive=progressive)
    path.write_bytes(path.read_bytes() + behind)
    assert read_rgb(str(path)).size == (40, 80)
    assert read_image(str(path)).size == (40, 80)


def test_what_is_written_in_a_jpeg_is_none_of_its_scans(tmp_path: Path) -> None:
    path = tmp_path / "written.jpg"
    exif = Image.Exif()
    # The tag of what a camera's maker writes.
    exif[0x927C] = b"\xff\xda" * 100
    Image.new("RGB", (40, 80), "red").save(path, "JPEG", comment=b"\xff\xda" * 100, exif=exif)
    assert path.read_bytes().count(b"\xff\xda") > 200
    assert read_rgb(str(path)).size == (40, 80)


def test_scans_are_counted_whatever_stands_between_them(tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    Image.new("L", (64, 64)).save(path, "JPEG", progressive=True)
    whole = path.read_bytes()
    place = whole.rindex(b"\xff\xda")
    end_in_a_comment = b"\xff\xfe\x00\x04\xff\xd9"
    for between in (b"", b"\xff" * 9, b"\xff\x00", b"\xff\xd0", b"noise", end_in_a_comment):
        path.write_bytes(whole[:place] + (between + whole[place:-2]) * 70 + whole[-2:])
        with pytest.raises(DatasetError, match="more than 64 scans"):
            read_rgb(str(path))


def test_runs_of_marks_in_a_jpeg_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "marks.jpg"
    Image.new("L", (64, 64)).save(path, "JPEG")
    whole = path.read_bytes()
    before = time.process_time()
    path.write_bytes(whole[:-2] + b"\xff" * (1 << 24) + b"\x00" + whole[-2:])
    assert read_rgb(str(path)).size == (64, 64)
    assert time.process_time() - before < 5


def test_text_in_an_image_is_no_bomb_either(tmp_path: Path) -> None:
    content = black_png(8, 8)
    packed = zlib.compress(bytes(1 << 28), 9)
    data = b"zTXt" + b"Comment\0\0" + packed
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    path = tmp_path / "text.png"
    path.write_bytes(content[:33] + chunk + content[33:])
    with pytest.raises(DatasetError, match=r"cannot be read \(Decompressed data too large"):
        read_rgb(str(path))


def test_a_folders_images_are_those_that_can_be_read(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpeg", "c.tif", "d.webp", "e.pgm", "f.eps", "g.psd", "h.pdf", "i.jp2"]
    for name in names:
        (tmp_path / name).touch()
    found = find_files(str(tmp_path))
    assert found.images == ["a.jpg", "b.jpeg", "c.tif", "d.webp", "e.pgm"]
    assert found.foreign() == ["i.jp2"]
    assert set(READ) == set(FORMATS)
