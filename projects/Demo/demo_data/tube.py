"""A small software renderer: shaded, textured elliptical tubes in a depth buffer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLD_SIZE = 128


Array = NDArray[np.floating[Any]]
Paint = Callable[[Array, Array], Array]


def field(
    rng: np.random.Generator, width: int, height: int, cells: tuple[int, int]
) -> NDArray[np.float32]:
    """Return normal noise interpolated from a coarse grid.

    Args:
        rng: the random stream.
        width: pixels per row.
        height: rows.
        cells: columns and rows of the coarse grid.

    Returns:
        Field of shape (height, width) with a standard deviation near 1.
    """
    coarse = rng.normal(0, 1.3, (cells[1] + 1, cells[0] + 1)).astype(np.float32)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def fractal(rng: np.random.Generator, width: int, height: int, cell: int) -> NDArray[np.float32]:
    """Return three octaves of noise, the coarsest with cells of ``cell`` pixels."""
    total = np.zeros((height, width), np.float32)
    for octave in range(3):
        size = max(2, cell >> octave)
        cells = (max(1, width // size), max(1, height // size))
        total += field(rng, width, height, cells) * np.float32(0.6**octave)
    return total * np.float32(0.65)


@functools.lru_cache(maxsize=8)
def folds(variant: int) -> NDArray[np.float32]:
    """Return a map of cloth folds (FOLD_SIZE squared, about unit deviation)."""
    rng = np.random.Generator(np.random.PCG64(977 + variant))
    size = FOLD_SIZE
    broad = field(rng, size, size, (6, 10))
    fine = field(rng, size, size, (14, 26))
    return broad * np.float32(0.8) + fine * np.float32(0.5)


@dataclass(frozen=True)
class Tube:
    """A body part, a garment or a bag.

    Body coordinates are metres: x to the person's left, y up, z forward.

    Attributes:
        start: first end of the axis, shape (3,).
        end: second end of the axis, shape (3,).
        widths: half widths along x at equal steps from start to end.
        depths: half depths along z at the same steps.
        paint: reflectance from the position along the axis in [0, 1] and the angle around it
            (radians, 0 in front, positive to the left), both of shape (n,); returns (n, 3).
        caps: roundness of the two ends; 1 is a half sphere, 0 is flat.
        crease: strength of the cloth folds.
    """

    start: Array
    end: Array
    widths: tuple[float, ...]
    depths: tuple[float, ...]
    paint: Paint
    caps: tuple[float, float] = (1.0, 1.0)
    crease: float = 0.0


@dataclass(frozen=True)
class View:
    """How a camera sees one person.

    Attributes:
        yaw: angle of the facing direction (radians): 0 towards the camera, pi away from it.
        elevation: angle of the camera above the horizontal (radians).
        distance: metres from the camera to the middle of the body.
        scale: pixels per metre at that distance.
        origin: pixel of the ground point below the body.
        roll: tilt of the camera (radians).
    """

    yaw: float
    elevation: float
    distance: float
    scale: float
    origin: tuple[float, float]
    roll: float = 0.0

    def project(self, point: Array) -> tuple[float, float, float, float]:
        """Return column, row, nearness (metres) and pixels per metre of a body point."""
        x, y, z = (float(value) for value in point)
        right = x * np.cos(self.yaw) + z * np.sin(self.yaw)
        near = z * np.cos(self.yaw) - x * np.sin(self.yaw)
        up = y * np.cos(self.elevation) - near * np.sin(self.elevation)
        towards = y * np.sin(self.elevation) + near * np.cos(self.elevation)
        scale = self.scale * self.distance / (self.distance - towards)
        tilted = right * np.cos(self.roll) - up * np.sin(self.roll)
        up = right * np.sin(self.roll) + up * np.cos(self.roll)
        return self.origin[0] + tilted * scale, self.origin[1] - up * scale, towards, scale


@dataclass(frozen=True)
class Light:
    """Illumination of a person in view coordinates.

    Attributes:
        direction: unit vector (right, up, towards the camera) to the lamp or the sun.
        ambient: fraction of the light that has no direction.
    """

    direction: tuple[float, float, float]
    ambient: float


class Canvas:
    """Colour (height, width, 3), linear, and nearness (height, width) of what is drawn."""

    def __init__(self, width: int, height: int) -> None:
        self.colour = np.zeros((height, width, 3), np.float32)
        self.near = np.full((height, width), -np.inf, np.float32)

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Pixels that something was drawn on."""
        return np.isfinite(self.near)

    def draw(self, tube: Tube, view: View, light: Light, fold: int = 0) -> None:
        """Draw one tube where it is nearer than what is there."""
        outline = _Outline(tube, view)
        rows, columns = outline.box(*self.near.shape)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        surface = outline.hit(rows, columns)
        visible = surface.inside & (surface.near > self.near[rows, columns])
        if not visible.any():
            return
        along, side, out, facing = (
            values[visible] for values in (surface.along, surface.side, surface.out, surface.facing)
        )
        angle = outline.angle(side)
        shade = outline.shade(side, out, facing, light)
        if tube.crease:
            shade = shade * (1 + tube.crease * _folds(along, angle, fold))
        self.colour[rows, columns][visible] = tube.paint(along, angle) * shade[:, None]
        self.near[rows, columns][visible] = surface.near[visible]


@dataclass(frozen=True)
class _Surface:
    inside: NDArray[np.bool_]
    near: Array
    along: Array
    side: Array
    out: Array
    facing: Array


class _Outline:
    """Image of a tube: an axis with half widths, ended by two half ellipses."""

    def __init__(self, tube: Tube, view: View) -> None:
        x0, y0, self.near0, scale0 = view.project(tube.start)
        x1, y1, self.near1, scale1 = view.project(tube.end)
        self.x0, self.y0 = x0, y0
        self.length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-3)
        self.axis = ((x1 - x0) / self.length, (y1 - y0) / self.length)
        # The side vector always points to the right of the image, as angles need it.
        flip = -1.0 if self.axis[1] > 0 else 1.0
        self.side = (-self.axis[1] * flip, self.axis[0] * flip)
        scale = np.linspace(scale0, scale1, len(tube.widths))
        wide, deep = np.array(tube.widths), np.array(tube.depths)
        cos, sin = np.cos(view.yaw), np.sin(view.yaw)
        self.half = np.hypot(wide * cos, deep * sin) * scale
        self.thick = np.hypot(wide * sin, deep * cos)
        self.turn = float(np.arctan2(deep.mean() * sin, wide.mean() * cos))
        metres = float(np.linalg.norm(tube.end - tube.start))
        tilt = np.sqrt(max(0.0, 1 - (self.length / (scale.mean() * max(metres, 1e-3))) ** 2))
        self.cap0 = max(tube.caps[0], tilt) * self.thick[0] * scale[0] + 1e-3
        self.cap1 = max(tube.caps[1], tilt) * self.thick[-1] * scale[-1] + 1e-3

    def box(self, height: int, width: int) -> tuple[slice, slice]:
        reach = max(float(self.half.max()), self.cap0, self.cap1) + 1
        xs = (self.x0, self.x0 + self.axis[0] * self.length)
        ys = (self.y0, self.y0 + self.axis[1] * self.length)
        left, right = int(max(0, min(xs) - reach)), int(min(width, max(xs) + reach + 1))
        top, bottom = int(max(0, min(ys) - reach)), int(min(height, max(ys) + reach + 1))
        return slice(top, bottom), slice(left, right)

    def hit(self, rows: slice, columns: slice) -> _Surface:
        dx = np.arange(columns.start, columns.stop, dtype=np.float32)[None] - np.float32(self.x0)
        dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(self.y0)
        along = (dx * self.axis[0] + dy * self.axis[1]) / np.float32(self.length)
        inner = np.clip(along, 0, 1)
        over = (along - inner) * np.float32(self.length)
        out = np.where(over < 0, over / np.float32(self.cap0), over / np.float32(self.cap1))
        side = (dx * self.side[0] + dy * self.side[1]) / self._at(inner, self.half)
        rest = 1 - side * side - out * out
        facing = np.sqrt(np.maximum(rest, 0))
        near = np.float32(self.near0) + np.float32(self.near1 - self.near0) * inner
        near = near + self._at(inner, self.thick) * facing
        return _Surface(rest > 0, near, inner, side, out, facing)

    @staticmethod
    def _at(along: Array, values: NDArray[np.float64]) -> Array:
        place = along * np.float32(len(values) - 1)
        index = np.minimum(place.astype(np.int32), len(values) - 2)
        steps = np.diff(values).astype(np.float32)
        return values.astype(np.float32)[index] + steps[index] * (place - index)

    def angle(self, side: Array) -> Array:
        turned = np.arcsin(np.clip(side, -1, 1)) - np.float32(self.turn)
        turns = np.round(turned / np.float32(2 * np.pi))
        return turned - turns * np.float32(2 * np.pi)

    def shade(self, side: Array, out: Array, facing: Array, light: Light) -> Array:
        lx, ly, lz = light.direction
        along_light = self.axis[0] * lx - self.axis[1] * ly
        side_light = self.side[0] * lx - self.side[1] * ly
        lit = side * np.float32(side_light) + out * np.float32(along_light)
        lit = lit + facing * np.float32(lz)
        return np.float32(light.ambient) + np.float32(1 - light.ambient) * np.maximum(lit, 0)


def _folds(along: Array, angle: Array, variant: int) -> Array:
    row = (along * np.float32(FOLD_SIZE * 0.6)).astype(np.int32) + 31 * variant
    column = ((angle + np.float32(np.pi)) * np.float32(FOLD_SIZE / 6.3)).astype(np.int32)
    return folds(variant % 8)[row % FOLD_SIZE, column % FOLD_SIZE]


@dataclass(frozen=True)
class Fabric:
    """Cloth of a garment.

    Attributes:
        pattern: "plain", "stripes", "bars", "checks", "two-tone", "blotches" or "print".
        base: main reflectance, shape (3,).
        second: reflectance of the pattern, shape (3,).
        period: width of the pattern in metres.
        phase: where the pattern starts, in [0, 1).
    """

    pattern: str
    base: Array
    second: Array
    period: float
    phase: float


def plain(colour: Array) -> Paint:
    """Return the paint of one colour."""
    return lambda along, angle: np.broadcast_to(colour, (*along.shape, 3))


def cloth(fabric: Fabric, length: float, radius: float) -> Paint:
    """Return the paint of a fabric on a tube.

    Args:
        fabric: the cloth.
        length: length of the tube in metres.
        radius: mean radius of the tube in metres.
    """
    if fabric.pattern in ("plain", "print"):
        return plain(fabric.base)

    def paint(along: Array, angle: Array) -> Array:
        return mix(fabric.base, fabric.second, _cover(fabric, along, along * length, angle, radius))

    return paint


def mix(base: Array, second: Array, cover: Array) -> Array:
    """Blend two reflectances (or maps of them) by a coverage map of shape (n,)."""
    return base + (second - base) * cover[:, None].astype(np.float32)


def _cover(fabric: Fabric, along: Array, metres: Array, angle: Array, radius: float) -> Array:
    up = metres / fabric.period + fabric.phase
    around = angle * radius / fabric.period + fabric.phase
    if fabric.pattern == "stripes":
        return (up % 1 < 0.45).astype(np.float32)
    if fabric.pattern == "bars":
        return (around % 1 < 0.35).astype(np.float32)
    if fabric.pattern == "checks":
        return np.float32(0.5) * ((up % 1 < 0.5) * np.float32(1) + (around % 1 < 0.5))
    if fabric.pattern == "two-tone":
        return (along > 0.45 + 0.3 * fabric.phase).astype(np.float32)
    wave = np.sin(5.1 * around + 3 * fabric.phase) + np.sin(4.3 * up + 2.1 * np.sin(2.7 * around))
    return (wave > 0.35).astype(np.float32)
