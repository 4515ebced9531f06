"""Contact sheets: a query in each row and what was found to its right, framed and captioned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from metabin_plugin.data.images import read_rgb
from metabin_plugin.errors import DatasetError
from metabin_plugin.search.faults import write_file

IMAGE = (96, 192)
FRAME = 4
GAP = 6
FONT_SIZE = 12
LINE = 15
UNREADABLE = "unreadable"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
GREY, GREEN, RED = (120, 120, 120), (40, 160, 60), (200, 50, 40)


@dataclass(frozen=True)
class Tile:
    """One image of a sheet.

    Attributes:
        path: the image file; "" for none, which leaves an empty place.
        caption: lines under it; each is shortened in its middle to the width of the image.
        colour: of the frame.
    """

    path: str
    caption: Sequence[str] = ()
    colour: tuple[int, int, int] = GREY


def draw_sheet(rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """Draw tiles; the first one of each row, the query, stands apart.

    An image that cannot be read leaves an empty place that says so.

    Args:
        rows: at least one.
    """
    width, height = IMAGE[0] + 2 * FRAME + GAP, IMAGE[1] + 2 * FRAME + GAP
    height += LINE * max(len(tile.caption) for row in rows for tile in row)
    columns = max(map(len, rows))
    sheet = Image.new("RGB", (width * columns + 3 * GAP, height * len(rows) + GAP), "white")
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            place = (GAP + x * width + (2 * GAP if x else 0), GAP + y * height)
            _paste(sheet, tile, place)
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG, complete or not at all.

    Raises:
        SearchError: it cannot be written.
    """
    write_file(path, lambda file: sheet.save(file, format="PNG"))


def shortened(text: str, characters: int) -> str:
    """A text, without its middle if it is longer than some characters."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    if len(text) <= characters:
        return text
    head = (characters - 1) // 3
    return f"{text[:head]}…{text[head + 1 - characters :]}"


def _paste(sheet: Image.Image, tile: Tile, place: tuple[int, int]) -> None:
    font = ImageFont.load_default(FONT_SIZE)
    image = ImageOps.expand(_image(tile.path, font), FRAME, tile.colour)
    sheet.paste(image, place)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(tile.caption):
        top = place[1] + image.height + number * LINE
        draw.text((place[0], top), _fitting(line, font), fill="black", font=font)


def _image(path: str, font: Font) -> Image.Image:
    place = Image.new("RGB", IMAGE, (230, 230, 230))
    if path:
        try:
            return read_rgb(path).resize(IMAGE)
        except DatasetError:
            ImageDraw.Draw(place).text((IMAGE[0] // 2, IMAGE[1] // 2), UNREADABLE, GREY, font, "mm")
    return place


def _fitting(line: str, font: Font) -> str:
    # No character is narrower than a pixel, and a name from elsewhere may be of any length.
    characters = min(len(line), IMAGE[0] + 2 * FRAME)
    while font.getlength(shortened(line, characters)) > IMAGE[0] + 2 * FRAME and characters > 3:
        characters -= 1
    return shortened(line, characters)
