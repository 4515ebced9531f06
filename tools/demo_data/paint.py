"""Reflectance of garments and skin as a function of the place on the body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo_data.tube import Array, Paint


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
