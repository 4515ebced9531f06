"""Image files of other formats and sizes under the name of a JPEG."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.mutations.raw import change_bytes

_FORMATS = (
    *("PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX", "SGI", "DDS", "JPEG2000"),
    *("PDF", "EPS", "IM", "MSP", "SPIDER", "XBM", "ICNS", "MPO", "BLP", "DIB", "AVIF"),
)


def change(rng: random.Random, data: bytes, path: Path, outside: Path) -> tuple[bytes, str]:
    """Another format, whole or damaged; a JPEG with another header; or an image of vast size."""
    if rng.random() < 0.5:
        content, what = _other_format(rng, data)
        if rng.random() < 0.5:
            content, how = change_bytes(rng, content)
            what += f", {how}"
        return content, what
    what = rng.choice(list(_SPECIAL))
    return _SPECIAL[what](rng, data), what


def _other_format(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    with Image.open(io.BytesIO(data)) as image:
        mode = rng.choice(("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr"))
        file = io.BytesIO()
        name = rng.choice(_FORMATS)
        try:
            image.convert(mode).save(file, name)
        # Not every format has every mode, or is there in every build.
        except (KeyError, OSError, ValueError, SystemError):
            file = io.BytesIO()
            image.save(file, "PNG")
            mode, name = "RGB", "PNG"
    return file.getvalue(), f"{name} of mode {mode}"


def _size_in_header(rng: random.Random, data: bytes) -> bytes:
    place = data.index(b"\xff\xc0") + 5
    height, width = rng.choice(((65535, 65535), (0, 0), (1, 65535), (0, 16), (65535, 1), (8, 8)))
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def _components(rng: random.Random, data: bytes) -> bytes:
    place = data.index(b"\xff\xc0") + 9
    return data[:place] + bytes([rng.choice((0, 1, 2, 4, 255))]) + data[place + 1 :]


def _postscript(rng: random.Random, data: bytes) -> bytes:
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 32\n%%EndComments\n"
        b"(made) (w) file closefile\nshowpage\n%%EOF\n"
    )


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def _png_bomb(rng: random.Random, data: bytes) -> bytes:
    side = rng.choice((6_000, 12_000, 13_300, 20_000, 40_000))
    packer = zlib.compressobj(9)
    rows = bytes(1 + 3 * side)
    body = b"".join(packer.compress(rows) for _ in range(side)) + packer.flush()
    return _png(side, side, (b"IDAT", body))


def _png_text_bomb(rng: random.Random, data: bytes) -> bytes:
    name = rng.choice((b"zTXt", b"iTXt", b"iCCP"))
    start = b"k\0\1\0\0\0" if name == b"iTXt" else b"k\0\0"
    text = start + zlib.compress(bytes(200 << 20), 9)
    body = zlib.compress((b"\0" + bytes(3 * 16)) * 32)
    return _png(16, 32, (name, text), (b"IDAT", body))


def _png_size(rng: random.Random, data: bytes) -> bytes:
    width, height = rng.choice(((2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (0, 5), (70_000, 70_000)))
    return _png(width, height, (b"IDAT", zlib.compress(bytes(100))))


def _tiff(rng: random.Random, data: bytes) -> bytes:
    """A TIFF whose directory says random things, or follows itself."""
    tags = [256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 339]
    entries = [
        struct.pack(
            "<HHII",
            rng.choice(tags) if rng.random() < 0.3 else tag,
            rng.choice((1, 2, 3, 3, 4, 4, 5, 12, 16)),
            rng.choice((1, 1, 1, 3, 2**20, 2**32 - 1)),
            rng.choice((0, 1, 2, 8, 16, 32, 5, 7, 34892, 2**16, 2**31, rng.getrandbits(32))),
        )
        for tag in tags
    ]
    follows = rng.choice((0, 8, 2**31))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", follows)
    return b"II*\0\x08\0\0\0" + directory + rng.randbytes(512)


def _bmp(rng: random.Random, data: bytes) -> bytes:
    width, height = rng.choice(((2**31 - 1, 1), (2**20, 2**20), (-5, 5), (16, -(2**31)), (0, 0)))
    bits, packed = rng.choice((1, 4, 8, 24, 32)), rng.choice((0, 1, 2, 3, 4))
    body = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packed, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + body + rng.randbytes(200)


def _many_frames(rng: random.Random, data: bytes) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(np.full((32, 16), n % 256, np.uint8)) for n in range(2_000)]
    frames[0].save(file, rng.choice(("GIF", "TIFF")), save_all=True, append_images=frames[1:])
    return file.getvalue()


def _exif(rng: random.Random, data: bytes) -> bytes:
    body = b"Exif\0\0" + _tiff(rng, data)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def _many_segments(rng: random.Random, data: bytes) -> bytes:
    segment = rng.choice((b"\xff\xfe", b"\xff\xe2", b"\xff\xed")) + b"\xff\xff" + bytes(65_533)
    return data[:2] + segment * 200 + data[2:]


def _many_scans(rng: random.Random, data: bytes) -> bytes:
    """A progressive JPEG with thousands of scans of a large image."""
    file = io.BytesIO()
    Image.new("L", (4_000, 4_000)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    place = whole.rindex(b"\xff\xda")
    return whole[:place] + whole[place:-2] * 3_000 + whole[-2:]


def _pixmap(rng: random.Random, data: bytes) -> bytes:
    size = rng.choice((b"100000 100000", b"0 0", b"-1 5", b"9" * 30 + b" 1", b"16 32"))
    return rng.choice((b"P6", b"P3", b"P1", b"Pf", b"P7")) + b"\n" + size + b"\n255\n" + bytes(1536)


_SPECIAL: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "JPEG of another size": _size_in_header,
    "JPEG of other components": _components,
    "JPEG with random EXIF data": _exif,
    "JPEG with many segments": _many_segments,
    "JPEG with many scans": _many_scans,
    "EPS": _postscript,
    "PNG bomb": _png_bomb,
    "PNG text bomb": _png_text_bomb,
    "PNG of another size": _png_size,
    "TIFF of random tags": _tiff,
    "BMP of another size": _bmp,
    "many frames": _many_frames,
    "PPM": _pixmap,
    "text": lambda rng, data: b"no image\n",
    "empty": lambda rng, data: b"",
    "random bytes": lambda rng, data: rng.randbytes(2_000),
    "SVG": lambda rng, data: (
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>'
    ),
}
