"""Backgrounds: street, corridor, platform, plaza, campus lawn and movie frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from demo_data.scene_parts import (
    Sheet,
    bicycle,
    bricks,
    car,
    floor,
    foliage,
    new_sheet,
    openings,
    post,
    seats,
    shaded,
    weather,
)

WIDTH, HEIGHT = 900, 760


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
