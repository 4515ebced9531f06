"""Backpacks, satchels, handbags and trolley cases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demo_data.paint import mix, plain
from demo_data.people import Person
from demo_data.pose import Side
from demo_data.tube import Array, Paint, Tube


def straps(person: Person) -> Callable[[Array, Array], Array] | None:
    """Return the coverage of the bag's straps on the torso, None if the bag has none."""
    bag = person.bag
    if bag.kind == "backpack":
        return lambda along, angle: ((np.abs(np.abs(angle) - 0.62) < 0.13) & (along > 0.3)).astype(
            np.float32
        )
    if bag.kind == "satchel":
        return lambda along, angle: (
            np.abs(along - 0.52 + bag.side * 0.42 * np.sin(angle)) < 0.045
        ).astype(np.float32)
    return None


def bag_tubes(person: Person, right: Side, left: Side) -> list[Tube]:
    """Return the tubes of the person's bag."""
    bag = person.bag
    half = left if bag.side > 0 else right
    if bag.kind == "backpack":
        return [_backpack(person, half)]
    if bag.kind == "satchel":
        return [_satchel(person, half)]
    if bag.kind == "handbag":
        return _handbag(person, half)
    if bag.kind == "trolley":
        return _trolley(person, half)
    return []


def _satchel(person: Person, half: Side) -> Tube:
    bag, h = person.bag, person.height
    x = bag.side * 0.13 * h * (0.4 + 0.6 * person.build)
    top = np.array([x, half.hip[1] + 0.05 * h, -0.02 * h], np.float32)
    low = top - np.array([0, 0.11 * h * bag.size, 0], np.float32)
    return _box(top, low, 0.03 * h, 0.085 * h * bag.size, _flap(bag.colour, 0.45))


def _handbag(person: Person, half: Side) -> list[Tube]:
    bag, h = person.bag, person.height
    hand = _hand(half)
    top = hand - np.array([0, 0.06 * h, 0], np.float32)
    low = top - np.array([0, 0.1 * h * bag.size, 0], np.float32)
    grip = Tube(hand, top, (0.012, 0.03), (0.012, 0.05), plain(bag.colour * np.float32(0.7)))
    return [grip, _box(top, low, 0.035 * h, 0.075 * h * bag.size, _flap(bag.colour, 0.3))]


def _hand(half: Side) -> Array:
    return half.wrist + (half.wrist - half.elbow) * np.float32(0.3)


def _box(top: Array, low: Array, wide: float, deep: float, paint: Paint) -> Tube:
    return Tube(top, low, (wide * 0.85, wide, wide), (deep * 0.85, deep, deep), paint, (0.3, 0.35))


def _flap(colour: Array, edge: float) -> Paint:
    dark = colour * np.float32(0.7)
    return lambda along, angle: mix(colour, dark, (along < edge).astype(np.float32))


def _backpack(person: Person, half: Side) -> Tube:
    bag, h = person.bag, person.height
    behind = float(half.shoulder[2]) - 0.1 * h * (0.5 + 0.5 * person.build)
    low = np.array([0, half.hip[1] + 0.06 * h, behind - 0.01 * h], np.float32)
    top = np.array([0, half.shoulder[1] - 0.015 * h, behind + 0.005 * h], np.float32)
    dark = bag.colour * np.float32(0.6)

    def paint(along: Array, angle: Array) -> Array:
        pocket = (along < 0.5) & (np.abs(angle) > 1.7) & (along > 0.08)
        seam = np.abs(along - 0.55) < 0.03
        return mix(bag.colour, dark, np.maximum(seam, 0.5 * pocket))

    wide = tuple(w * h * bag.size for w in (0.075, 0.088, 0.085, 0.07))
    deep = tuple(d * h * bag.size for d in (0.05, 0.055, 0.045, 0.03))
    return Tube(low, top, wide, deep, paint, (0.35, 0.5), 0.05)


def _trolley(person: Person, half: Side) -> list[Tube]:
    bag, h = person.bag, person.height
    hand = _hand(half)
    low = np.array([hand[0] + bag.side * 0.04 * h, 0.03 * h, hand[2] - 0.24 * h], np.float32)
    top = low + np.array([0, 0.3 * h * bag.size, 0.06 * h], np.float32)
    rod = Tube(hand, top, (0.012, 0.012), (0.012, 0.012), plain(np.full(3, 0.12, np.float32)))
    return [rod, _box(top, low, 0.11 * h * bag.size, 0.075 * h * bag.size, _flap(bag.colour, 0.1))]
