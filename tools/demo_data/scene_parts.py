"""Things that stand behind people: walls, floors, cars, trains, trees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from demo_data.noise import field, fractal

Colour = tuple[int, int, int]


@dataclass
class Sheet:
    """A background under construction.

    Attributes:
        image: the drawing, display values.
        pen: draws on it.
        rng: the scene's random stream.
        horizon: row where the ground begins.
    """

    image: Image.Image
    pen: ImageDraw.ImageDraw
    rng: np.random.Generator
    horizon: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size

    def tone(self, *colours: Colour, spread: float = 14) -> Colour:
        """Return one of the colours, slightly changed."""
        base = np.array(colours[int(self.rng.integers(len(colours)))], float)
        base += self.rng.normal(0, spread) + self.rng.normal(0, spread / 6, 3)
        red, green, blue = (int(v) for v in np.clip(base, 8, 247))
        return red, green, blue


def shaded(colour: Colour, factor: float) -> Colour:
    """Return a darker or lighter tone of a display colour."""
    red, green, blue = (int(min(255, max(0, v * factor))) for v in colour)
    return red, green, blue


def new_sheet(rng: np.random.Generator, width: int, height: int, horizon: int) -> Sheet:
    """Return an empty background."""
    image = Image.new("RGB", (width, height), (128, 128, 128))
    return Sheet(image, ImageDraw.Draw(image), rng, horizon)


def floor(sheet: Sheet, colour: Colour, tile: int, joint: float) -> None:
    """Draw ground with joints in perspective.

    Args:
        sheet: the background.
        colour: colour of the ground.
        tile: width of a tile in pixels at the lower edge, 0 for none.
        joint: brightness factor of the joints.
    """
    width, height = sheet.size
    sheet.pen.rectangle((0, sheet.horizon, width, height), fill=colour)
    if not tile:
        return
    line = shaded(colour, joint)
    depth = height - sheet.horizon
    vanish = sheet.rng.uniform(0.2, 0.8) * width
    for k in range(-40, 40):
        x = vanish + k * tile
        top = vanish + (x - vanish) * 0.35
        sheet.pen.line((top, sheet.horizon, x, height), fill=line, width=2)
    row, step = float(height), tile * 0.6
    while row > sheet.horizon and step > 3:
        sheet.pen.line((0, row, width, row), fill=line, width=2)
        row -= step
        step *= 1 - 0.65 * tile * 0.6 / depth


def bricks(sheet: Sheet, colour: Colour, courses: int) -> None:
    """Draw a wall above the ground with horizontal courses."""
    width, _ = sheet.size
    sheet.pen.rectangle((0, 0, width, sheet.horizon), fill=colour)
    for row in range(0, sheet.horizon, courses):
        sheet.pen.line((0, row, width, row), fill=shaded(colour, 0.88), width=2)


def openings(sheet: Sheet, size: tuple[int, int], gap: int, glass: Colour, low: int) -> None:
    """Draw a row of windows, doors or posters on the wall, ``low`` pixels above the ground."""
    width, _ = sheet.size
    x = int(sheet.rng.uniform(-size[0], gap))
    while x < width:
        fill = sheet.tone(glass, spread=18)
        box = (x, sheet.horizon - low - size[1], x + size[0], sheet.horizon - low)
        sheet.pen.rectangle(box, fill=fill, outline=shaded(fill, 0.6), width=4)
        middle = x + size[0] * sheet.rng.uniform(0.35, 0.65)
        sheet.pen.line((middle, box[1], middle, box[3]), fill=shaded(fill, 0.7), width=3)
        if sheet.rng.random() < 0.6:
            edge = x + size[0] * sheet.rng.uniform(0.2, 0.8)
            glare = [(x + 4, box[1] + 4), (edge, box[1] + 4), (x + 4, box[3] - 4)]
            sheet.pen.polygon(glare, fill=shaded(fill, 1.25))
        x += size[0] + int(gap * sheet.rng.uniform(0.5, 1.6))


def car(sheet: Sheet, x: int, size: int) -> None:
    """Draw a parked car, ``size`` pixels long, its wheels just below the horizon."""
    body = sheet.tone((190, 192, 195), (40, 42, 48), (110, 30, 32), (60, 78, 110), (225, 224, 220))
    base = sheet.horizon + 18
    tall = size // 4
    roof = [(x + size * 0.18, base - tall), (x + size * 0.3, base - tall * 1.75),
            (x + size * 0.68, base - tall * 1.75), (x + size * 0.85, base - tall)]  # fmt: skip
    sheet.pen.polygon(roof, fill=shaded(body, 0.5))
    sheet.pen.rounded_rectangle((x, base - tall, x + size, base), tall // 3, fill=body)
    sheet.pen.rectangle((x, base - tall // 3, x + size, base), fill=shaded(body, 0.7))
    for place in (0.2, 0.78):
        centre, radius = x + size * place, tall * 0.38
        wheel = (centre - radius, base - radius, centre + radius, base + radius)
        sheet.pen.ellipse(wheel, fill=(24, 24, 26), outline=(90, 90, 92), width=5)


def post(sheet: Sheet, x: float, width: int, colour: Colour, foot: int) -> None:
    """Draw a column, lamp post or trunk that ends ``foot`` pixels below the horizon."""
    base = sheet.horizon + foot
    sheet.pen.rectangle((x, 0, x + width, base), fill=colour)
    sheet.pen.rectangle((x, 0, x + width * 0.3, base), fill=shaded(colour, 1.2))
    sheet.pen.rectangle((x + width * 0.75, 0, x + width, base), fill=shaded(colour, 0.7))


def bicycle(sheet: Sheet, x: int, size: int) -> None:
    """Draw a parked bicycle, ``size`` pixels long."""
    base, radius = sheet.horizon + 30, size // 4
    ink = sheet.tone((40, 40, 42), (120, 40, 40), (50, 70, 110))
    for centre in (x + radius, x + size - radius):
        wheel = (centre - radius, base - 2 * radius, centre + radius, base)
        sheet.pen.ellipse(wheel, outline=(35, 35, 36), width=4)
    frame = [(x + radius, base - radius), (x + size * 0.45, base - radius),
             (x + size * 0.65, base - radius * 2.2), (x + size * 0.35, base - radius * 2.2),
             (x + radius, base - radius)]  # fmt: skip
    sheet.pen.line(frame, fill=ink, width=5)


def foliage(sheet: Sheet, top: int, bottom: int, colour: Colour) -> None:
    """Draw a hedge or tree tops as many overlapping leaves."""
    width, _ = sheet.size
    for _ in range(260):
        x, y = sheet.rng.uniform(-20, width), sheet.rng.uniform(top, bottom)
        radius = sheet.rng.uniform(10, 34)
        leaf = shaded(colour, sheet.rng.uniform(0.6, 1.35))
        sheet.pen.ellipse((x - radius, y - radius * 0.8, x + radius, y + radius * 0.8), fill=leaf)


def seats(sheet: Sheet, count: int) -> None:
    """Draw a row of seats in front of the wall."""
    colour = sheet.tone((60, 70, 110), (50, 50, 54), (120, 50, 48))
    x, base = int(sheet.rng.uniform(0, 300)), sheet.horizon + 40
    for k in range(count):
        left = x + k * 66
        sheet.pen.rounded_rectangle((left, base - 96, left + 58, base - 44), 8, fill=colour)
        seat = (left, base - 48, left + 58, base - 30)
        sheet.pen.rectangle(seat, fill=shaded(colour, 0.75))
        sheet.pen.line((left + 29, base - 30, left + 29, base), fill=(70, 70, 72), width=5)


def weather(sheet: Sheet, grain: float, patches: float) -> np.ndarray:
    """Return the drawing as an array with worn, uneven brightness.

    Args:
        sheet: the background.
        grain: relative strength of the fine texture.
        patches: relative strength of the broad light and shadow patches.
    """
    width, height = sheet.size
    fine = fractal(sheet.rng, width, height, 8)
    broad = field(sheet.rng, width, height, (3, 3))
    factor = 1 + grain * fine + patches * np.clip(broad, -1.5, 1.5)
    drawn = np.asarray(sheet.image, np.float32) * factor[..., None]
    return np.clip(drawn, 0, 255).astype(np.uint8)
