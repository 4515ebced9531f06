"""Backgrounds: street, corridor, platform, plaza, campus lawn and movie frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo_data.tube import field, fractal

Colour = tuple[int, int, int]


WIDTH, HEIGHT = 900, 760


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


def draw_scene(rng: np.random.Generator, kind: str, elevation: float) -> np.ndarray:
    """Draw the background of one camera.

    Args:
        rng: the scene's random stream.
        kind: a key of ``SCENES``.
        elevation: angle of the camera above the horizontal (radians); a steep camera sees ground
            only.

    Returns:
        Display values of shape (HEIGHT, WIDTH, 3), uint8; the pixel scale is that of the persons.
    """
    horizon = int(np.clip(430 - 700 * elevation + rng.normal(0, 40), 40, 470))
    sheet = new_sheet(rng, WIDTH, HEIGHT, horizon)
    grain, patches = SCENES[kind](sheet)
    image = sheet.image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.8, 2.2))))
    sheet.image = image
    return weather(sheet, grain, patches)


def _street(sheet: Sheet) -> tuple[float, float]:
    rng = sheet.rng
    bricks(sheet, sheet.tone((150, 140, 128), (120, 90, 78), (178, 176, 170), (98, 98, 102)), 26)
    glass = sheet.tone((58, 66, 74), (90, 100, 108), (40, 42, 46))
    openings(sheet, (int(rng.uniform(120, 260)), int(rng.uniform(150, 300))), 70, glass, 20)
    floor(sheet, sheet.tone((140, 138, 134), (112, 112, 114), (160, 152, 142)), 120, 0.88)
    if rng.random() < 0.6:
        car(sheet, int(rng.uniform(-100, 600)), int(rng.uniform(360, 520)))
    if rng.random() < 0.5:
        kerb = sheet.horizon + int(rng.uniform(40, 120))
        dark = sheet.tone((78, 78, 80), (96, 95, 94))
        sheet.pen.rectangle((0, sheet.horizon + 20, WIDTH, kerb), fill=dark)
        sheet.pen.rectangle((0, kerb, WIDTH, kerb + 10), fill=(178, 176, 170))
    for _ in range(int(rng.integers(0, 3))):
        post(sheet, rng.uniform(0, WIDTH), int(rng.uniform(10, 26)), sheet.tone((84, 86, 88)), 30)
    return 0.03, 0.06


def _corridor(sheet: Sheet) -> tuple[float, float]:
    rng = sheet.rng
    bricks(sheet, sheet.tone((205, 200, 188), (188, 192, 194), (170, 160, 142)), 150)
    openings(sheet, (int(rng.uniform(90, 150)), int(rng.uniform(220, 320))), 220,
             sheet.tone((120, 96, 70), (150, 158, 160), (76, 92, 110)), 0)  # fmt: skip
    if rng.random() < 0.6:
        poster = sheet.tone((176, 60, 50), (60, 90, 140), (220, 200, 120))
        openings(sheet, (90, 110), 300, poster, 130)
    floor(sheet, sheet.tone((176, 170, 158), (150, 150, 152), (124, 116, 108)),
          int(rng.uniform(70, 130)), float(rng.uniform(0.82, 1.1)))  # fmt: skip
    skirting = (0, sheet.horizon - 14, WIDTH, sheet.horizon)
    sheet.pen.rectangle(skirting, fill=sheet.tone((80, 74, 68), (120, 118, 116)))
    if rng.random() < 0.4:
        seats(sheet, int(rng.integers(3, 8)))
    if rng.random() < 0.5:
        column = sheet.tone((190, 188, 182))
        post(sheet, rng.uniform(0, WIDTH), int(rng.uniform(50, 90)), column, 50)
    return 0.015, 0.05


def _platform(sheet: Sheet) -> tuple[float, float]:
    rng = sheet.rng
    side = sheet.tone((160, 164, 168), (196, 196, 194), (120, 124, 130))
    sheet.pen.rectangle((0, 0, WIDTH, sheet.horizon), fill=side)
    openings(sheet, (int(rng.uniform(130, 190)), 130), 70, (44, 50, 58), 130)
    stripe = sheet.tone((150, 36, 40), (36, 60, 120), (190, 150, 40))
    band = (0, sheet.horizon - 100, WIDTH, sheet.horizon - 78)
    sheet.pen.rectangle(band, fill=stripe)
    pit = (0, sheet.horizon - 30, WIDTH, sheet.horizon)
    sheet.pen.rectangle(pit, fill=(36, 34, 34))
    floor(sheet, sheet.tone((116, 112, 106), (92, 92, 94), (134, 128, 118)), 90, 0.9)
    edge = sheet.horizon + int(rng.uniform(20, 70))
    line = (0, edge, WIDTH, edge + int(rng.uniform(10, 22)))
    sheet.pen.rectangle(line, fill=sheet.tone((196, 168, 60), (200, 198, 190)))
    for _ in range(int(rng.integers(0, 3))):
        column = sheet.tone((128, 126, 122))
        post(sheet, rng.uniform(0, WIDTH), int(rng.uniform(36, 70)), column, 90)
    return 0.025, 0.07


def _plaza(sheet: Sheet) -> tuple[float, float]:
    rng = sheet.rng
    bricks(sheet, sheet.tone((170, 172, 160), (140, 146, 138), (186, 178, 164)), 60)
    foliage(sheet, -10, int(sheet.horizon * 0.85), sheet.tone((74, 96, 52), (92, 110, 68)))
    hedge = sheet.horizon - int(rng.uniform(30, 110))
    foliage(sheet, hedge, sheet.horizon, sheet.tone((56, 80, 42)))
    floor(sheet, sheet.tone((168, 164, 154), (150, 146, 140), (158, 140, 128)), 80, 0.85)
    for _ in range(int(rng.integers(0, 4))):
        bicycle(sheet, int(rng.uniform(-50, WIDTH)), int(rng.uniform(180, 250)))
    for _ in range(int(rng.integers(0, 3))):
        trunk = sheet.tone((84, 68, 52), (104, 92, 78))
        post(sheet, rng.uniform(0, WIDTH), int(rng.uniform(22, 46)), trunk, 20)
    return 0.03, 0.07


def _lawn(sheet: Sheet) -> tuple[float, float]:
    rng = sheet.rng
    bricks(sheet, sheet.tone((150, 128, 110), (170, 166, 156)), 40)
    openings(sheet, (110, 180), 120, (70, 84, 92), 60)
    foliage(sheet, sheet.horizon - 90, sheet.horizon, sheet.tone((70, 88, 48)))
    floor(sheet, sheet.tone((104, 122, 66), (120, 128, 80), (92, 104, 62)), 0, 1)
    path = sheet.horizon + int(rng.uniform(60, 130))
    ground = sheet.tone((166, 160, 150), (140, 136, 132))
    sheet.pen.polygon([(0, path), (WIDTH, path - 30), (WIDTH, HEIGHT), (0, HEIGHT)], fill=ground)
    return 0.045, 0.06


def _movie(sheet: Sheet) -> tuple[float, float]:
    rng = sheet.rng
    wall = sheet.tone((132, 96, 72), (70, 84, 96), (168, 150, 110), (46, 44, 50), (140, 110, 120),
                      (96, 116, 92), spread=26)  # fmt: skip
    sheet.pen.rectangle((0, 0, WIDTH, sheet.horizon), fill=wall)
    for _ in range(int(rng.integers(4, 12))):
        x, y = rng.uniform(-80, WIDTH), rng.uniform(0, sheet.horizon)
        w, h = rng.uniform(30, 240), rng.uniform(40, 260)
        fill = sheet.tone(wall, shaded(wall, 0.5), shaded(wall, 1.6), (150, 60, 40), (60, 80, 110))
        shape = sheet.pen.rectangle if rng.random() < 0.7 else sheet.pen.ellipse
        shape((x, y, x + w, y + h), fill=fill)
    ground = sheet.tone((96, 78, 64), (70, 70, 74), (140, 128, 110), (160, 60, 50))
    floor(sheet, ground, int(rng.choice([0, 90, 160])), 0.85)
    sheet.image.paste(sheet.image.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 7)))))
    for _ in range(int(rng.integers(0, 9))):
        x, y, r = rng.uniform(0, WIDTH), rng.uniform(0, sheet.horizon), rng.uniform(8, 30)
        lamp = sheet.tone((250, 226, 170), (220, 230, 245), (240, 170, 120))
        sheet.pen.ellipse((x - r, y - r, x + r, y + r), fill=lamp)
    return 0.02, 0.12


SCENES: dict[str, Callable[[Sheet], tuple[float, float]]] = {
    "street": _street,
    "corridor": _corridor,
    "platform": _platform,
    "plaza": _plaza,
    "lawn": _lawn,
    "movie": _movie,
}


def window(
    scene: np.ndarray, rng: np.random.Generator, size: tuple[int, int], scale: float
) -> np.ndarray:
    """Cut the part of a background that lies behind one person.

    Args:
        scene: the background.
        rng: the image's random stream.
        size: width and height of the result in pixels.
        scale: pixels of the result per pixel of the scene.

    Returns:
        Display values of shape (height, width, 3), uint8.
    """
    width = min(WIDTH, int(size[0] / scale))
    height = min(HEIGHT, int(size[1] / scale))
    left = int(rng.uniform(0, WIDTH - width))
    top = int(rng.uniform(0.35, 1.0) * (HEIGHT - height))
    part = Image.fromarray(scene[top : top + height, left : left + width])
    return np.asarray(part.resize(size, Image.Resampling.BILINEAR))
