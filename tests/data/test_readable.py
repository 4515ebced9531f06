"""Image files of every kind: read as RGB, or refused with their path."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from metabin_plugin.data.images import ReadableDataset, read_rgb
from metabin_plugin.errors import DatasetError
from tests.campaigns import tries

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)
RED = Image.new("RGB", (6, 12), (255, 0, 0))


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    """An image that its EXIF data turn by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(PICTURE, "PNG", exif=exif)


def transparent_palette() -> bytes:
    picture = Image.new("P", (6, 12), 1)
    picture.putpalette([0, 255, 0, 255, 0, 0])
    return encoded(picture, "PNG", transparency=1)


def animation() -> bytes:
    frames = [RED.convert("P"), Image.new("RGB", (6, 12), (0, 0, 255)).convert("P")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


GOOD: dict[str, tuple[bytes, np.ndarray]] = {
    "png": (encoded(PICTURE, "PNG"), PIXELS),
    "one pixel": (encoded(PICTURE.crop((0, 0, 1, 1)), "PNG"), PIXELS[:1, :1]),
    "grey": (encoded(PICTURE.convert("L"), "PNG"), np.asarray(PICTURE.convert("L").convert("RGB"))),
    "cmyk": (encoded(RED.convert("CMYK"), "TIFF"), np.asarray(RED)),
    "palette with transparency": (transparent_palette(), np.asarray(RED)),
    "alpha": (encoded(PICTURE.convert("RGBA"), "PNG"), PIXELS),
    "turned": (turned(), np.rot90(PIXELS, -1)),
    "animation": (animation(), np.asarray(RED)),
}


@pytest.mark.parametrize("kind", GOOD)
def test_any_mode_is_read_as_rgb(tmp_path: Path, kind: str) -> None:
    content, pixels = GOOD[kind]
    # The kind of an image is in its bytes, not in its name.
    (tmp_path / "image.jpg").write_bytes(content)
    image = read_rgb(str(tmp_path / "image.jpg"))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels)


def huge_header() -> bytes:
    """A small PNG that claims to have 100,000 x 100,000 pixels."""
    content = bytearray(encoded(PICTURE, "PNG"))
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def sixteen_bits() -> bytes:
    return encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256), "PNG")


BAD = {
    "empty": (b"", "is empty"),
    "text": (b"path,pid,camid\n", "is not an image"),
    "truncated JPEG": (encoded(PICTURE, "JPEG")[:-40], "cannot be read"),
    "truncated PNG": (encoded(PICTURE, "PNG")[:-40], "cannot be read"),
    "header of a JPEG": (b"\xff\xd8\xff", "is not an image"),
    "decompression bomb": (huge_header(), "more than 67,108,864 pixels"),
    "16 bits": (sixteen_bits(), "more than 8 bits"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_files_are_named(tmp_path: Path, fault: str) -> None:
    content, words = BAD[fault]
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    refuse(path, words)


def refuse(path: Path, words: str) -> None:
    with pytest.raises(DatasetError) as caught:
        ReadableDataset([(str(path), 0, 0)])[0]
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    refuse(tmp_path / "folder.jpg", "cannot be read (Is a directory)")
    refuse(tmp_path / "dangling.jpg", "does not exist")
    refuse(tmp_path / "loop.jpg", "cannot be read")
    refuse(tmp_path / "folder.jpg" / "absent.jpg", "does not exist")
    (tmp_path / "file.jpg").touch()
    refuse(tmp_path / "file.jpg" / "absent.jpg", "cannot be read (Not a directory)")


def test_a_file_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(GOOD["png"][0])

    # The superuser may read every file, so the refusal is played.
    def deny(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", deny)
    refuse(path, "cannot be read (Permission denied)")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
def test_no_truncation_changes_a_pixel(tmp_path: Path, kind: str) -> None:
    content = encoded(PICTURE, kind)
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    whole = read_rgb(str(path)).tobytes()
    refused = 0
    for length in range(len(content)):
        path.write_bytes(content[:length])
        try:
            assert read_rgb(str(path)).tobytes() == whole
        except DatasetError:
            refused += 1
    # At most the marks behind the last pixel can be missing.
    assert refused >= len(content) - 20


@settings(max_examples=tries(60, 150))
@given(st.data())
def test_any_bytes_are_an_image_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kinds = ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP"]
    content = bytearray(encoded(PICTURE, data.draw(st.sampled_from(kinds))))
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "any.jpg"
    path.write_bytes(content)
    try:
        assert read_rgb(str(path)).mode == "RGB"
    except DatasetError as error:
        assert str(path) in str(error)
        assert len(str(error).splitlines()) == 1


def test_an_image_is_what_fastreid_makes_of_it(
    tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    from fastreid.data.data_utils import read_image

    path = str(write_image(tmp_path / "image.jpg"))
    assert read_rgb(path).tobytes() == read_image(path).tobytes()
