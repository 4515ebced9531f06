"""Tubes of a dressed person: legs, torso, arms and head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from demo_data.people import Person
from demo_data.tube import Array, Fabric, Paint, Tube, cloth, mix, plain


@dataclass(frozen=True)
class Pose:
    """Angles of one moment of a walk, in radians.

    Attributes:
        phase: moment of the step.
        stride: largest angle of the thigh.
        elbows: bend of the right and the left elbow.
        arms: forward angle added to the right and the left upper arm.
        lean: forward lean of the torso.
        head: turn of the head against the body.
    """

    phase: float
    stride: float
    elbows: tuple[float, float]
    arms: tuple[float, float]
    lean: float
    head: float


@dataclass(frozen=True)
class Side:
    """Joints of one body half in body coordinates (metres), each of shape (3,)."""

    hip: Array
    knee: Array
    ankle: Array
    toe: Array
    shoulder: Array
    elbow: Array
    wrist: Array


def sample_pose(rng: np.random.Generator, standing: float) -> Pose:
    """Draw a pose.

    Args:
        rng: the image's random stream.
        standing: probability that the person stands.
    """
    stands = rng.random() < standing
    stride = rng.uniform(0.0, 0.12) if stands else rng.uniform(0.25, 0.5)
    elbows, arms = list(rng.uniform(0.1, 0.5, 2)), [0.0, 0.0]
    if rng.random() < 0.14:
        # A phone, a cup, or a hand on a strap.
        busy = int(rng.integers(2))
        elbows[busy], arms[busy] = rng.uniform(1.4, 2.3), rng.uniform(0.05, 0.4)
    return Pose(
        phase=float(rng.uniform(0, 2 * np.pi)),
        stride=float(stride),
        elbows=(float(elbows[0]), float(elbows[1])),
        arms=(float(arms[0]), float(arms[1])),
        lean=float(rng.normal(0.04, 0.03)),
        head=float(rng.normal(0, 0.25)),
    )


def joints(person: Person, pose: Pose) -> tuple[Side, Side]:
    """Return the joints of the right (x negative) and left half of a person in a pose."""
    halves = [_half(person, pose, side) for side in (-1, 1)]
    # The lower foot stands on the ground.
    drop = min(float(half.ankle[1]) for half in halves) - 0.045 * person.height
    shift = np.array([0, drop, 0], np.float32)
    moved = [Side(*(point - shift for point in vars(half).values())) for half in halves]
    return moved[0], moved[1]


def _half(person: Person, pose: Pose, side: int) -> Side:
    h, gait = person.height, pose.stride * person.gait
    swing = gait * np.sin(pose.phase) * side
    bend = 0.06 + gait * 1.3 * max(0.0, float(np.cos(pose.phase) * side))
    hip = np.array([side * 0.046 * h, 0.52 * h, 0], np.float32)
    knee = hip + _limb(0.245 * h, swing)
    ankle = knee + _limb(0.235 * h, swing - bend)
    toe = ankle + np.array([side * 0.015, -0.022, 0.085], np.float32) * h
    lean = np.tan(pose.lean) * 0.3 * h
    half_shoulder = (0.092 if person.female else 0.106) * (0.6 + 0.4 * person.build) * h
    shoulder = np.array([side * half_shoulder, 0.79 * h, lean], np.float32)
    index = (side + 1) // 2
    arm = -0.75 * swing + pose.arms[index]
    elbow = shoulder + _limb(0.165 * h, arm, side * 0.13)
    wrist = elbow + _limb(0.15 * h, arm + pose.elbows[index], side * 0.04)
    return Side(hip, knee, ankle, toe, shoulder, elbow, wrist)


def _limb(length: float, forward: float, outward: float = 0.0) -> Array:
    down = -np.cos(forward) * np.cos(outward)
    return (length * np.array([np.sin(outward), down, np.sin(forward)])).astype(np.float32)


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


def person_tubes(person: Person, pose: Pose) -> list[Tube]:
    """Return everything that is drawn of a person.

    Args:
        person: the identity.
        pose: its pose in this image.
    """
    right, left = joints(person, pose)
    tubes = [_torso(person, right, left), *_head(person, pose, left)]
    for half in (right, left):
        tubes += [*_leg(person, half), *_arm(person, half)]
    tubes += _skirts(person, right, left)
    return tubes + bag_tubes(person, right, left)


def _point(x: float, y: float, z: float) -> Array:
    return np.array([x, y, z], np.float32)


def _scaled(values: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return tuple(value * factor for value in values)


def _torso(person: Person, right: Side, left: Side) -> Tube:
    h, top = person.height, person.top
    hip, neck = (right.hip + left.hip) / 2, (right.shoulder + left.shoulder) / 2
    start = _point(0, float(hip[1]) - 0.045 * h, 0)
    end = _point(0, float(neck[1]) + 0.042 * h, float(neck[2]))
    wide = (0.096, 0.098, 0.082, 0.076, 0.085, 0.095, 0.092, 0.05) if person.female else (
        0.092, 0.094, 0.086, 0.086, 0.097, 0.108, 0.105, 0.055)  # fmt: skip
    deep = (0.071, 0.071, 0.06, 0.058, 0.066, 0.068, 0.056, 0.038)
    size = h * (0.35 + 0.65 * person.build) * top.bulk
    return Tube(start, end, _scaled(wide, size), _scaled(deep, size), _torso_paint(person),
                (0.5, 0.4), 0.09)  # fmt: skip


def _torso_paint(person: Person) -> Paint:
    top, length = person.top, 0.36 * person.height
    outer = cloth(top.fabric, length, 0.15)
    lower = cloth(person.bottom.fabric, length, 0.15)
    hem = max(0.0, (top.hem - 0.475) / 0.36)
    strap = straps(person)

    def paint(along: Array, angle: Array) -> Array:
        colour = np.array(outer(along, angle))
        front = np.abs(angle)
        if top.motif_box is not None:
            width, low, high = top.motif_box
            behind = np.pi - front if top.motif_behind else front
            ragged = width * (0.8 + 0.2 * np.sin(40 * along))
            colour[(behind < ragged) & (along > low) & (along < high)] = top.motif
        if top.opening:
            colour[front < top.opening * (0.75 + 0.5 * np.abs(along - 0.4))] = top.inner
        below = along < hem
        colour[below] = lower(along[below], angle[below])
        neckline = (along > 0.93) & (front < (along - 0.9) * 9)
        colour[neckline] = person.skin
        if strap is not None:
            colour = mix(colour, person.bag.colour, strap(along, angle))
        return colour

    return paint


def _leg(person: Person, half: Side) -> list[Tube]:
    h, bottom = person.height, person.bottom
    size = h * (0.5 + 0.5 * person.build)
    covered = 1.0 if bottom.kind == "trousers" else 0.0
    if bottom.kind == "shorts":
        covered = (0.52 - bottom.hem) / 0.48
    thigh = _scaled((0.05, 0.05, 0.043, 0.037), size)
    calf = _scaled((0.036, 0.037, 0.03, 0.022), size)
    loose = bottom.width * size
    if covered:
        thigh = _scaled((0.05, 0.052, 0.047, 0.043), loose)
    if covered == 1.0:
        calf = _scaled((0.043, 0.042, 0.039, 0.037), loose)
    thigh_paint = _leg_paint(person, 2 * covered, bottom.fade) if covered else plain(person.skin)
    upper = _tucked(person, thigh_paint)
    lower = _leg_paint(person, 2 * covered - 1, bottom.fade * 0.4)
    if covered <= 0.5:
        lower = _bare_calf(person)
    shoe = _point(0, -0.012 * h, 0.015 * h)
    foot = Tube(half.ankle + shoe, half.toe, _scaled((0.027, 0.03, 0.026), h),
                _scaled((0.028, 0.024, 0.016), h), plain(person.shoes))  # fmt: skip
    return [
        Tube(half.hip, half.knee, thigh, thigh, upper, crease=0.08 * bool(covered)),
        Tube(half.knee, half.ankle, calf, calf, lower, crease=0.1 * (covered == 1.0)),
        foot,
    ]


def _leg_paint(person: Person, covered: float, fade: float) -> Paint:
    fabric = person.bottom.fabric
    base = cloth(fabric, 0.4, 0.09)
    # Also covers the rounded end of the tube, where the position along the axis is 1.
    edge = covered if covered < 1 else 2.0

    def paint(along: Array, angle: Array) -> Array:
        worn = fade * np.exp(-(angle**2) * 2) * np.exp(-((along - 0.6) ** 2) * 6)
        colour = base(along, angle) * (1 + worn[:, None].astype(np.float32))
        return np.where((along < edge)[:, None], colour, person.skin)

    return paint


def _tucked(person: Person, paint: Paint) -> Paint:
    # Where a thigh is wider than the coat or skirt over it, it shows the cloth of that garment.
    over = person.top.fabric
    hem = person.top.hem
    if person.bottom.kind == "skirt" and hem > person.bottom.hem:
        over, hem = person.bottom.fabric, person.bottom.hem + 0.03
    reach = min(1.0, (0.52 - hem) / 0.245)
    if reach <= 0:
        return paint
    outer = cloth(over, 0.4, 0.09)

    def layered(along: Array, angle: Array) -> Array:
        return np.where((along < reach)[:, None], outer(along, angle), paint(along, angle))

    return layered


def _bare_calf(person: Person) -> Paint:
    def paint(along: Array, angle: Array) -> Array:
        return np.where((along > 0.86)[:, None], person.sock, person.skin)

    return paint


def _arm(person: Person, half: Side) -> list[Tube]:
    top = person.top
    size = person.height * (0.45 + 0.55 * person.build)
    bulk = top.bulk if top.sleeves > 1 else 1.0
    upper = _scaled((0.033, 0.034, 0.028), size * bulk)
    fore = _scaled((0.028, 0.026, 0.02), size * bulk)
    hand = half.wrist + (half.wrist - half.elbow) * np.float32(0.35)
    return [
        Tube(half.shoulder, half.elbow, upper, upper, _sleeve(person, top.sleeves),
             (0.8, 1.0), 0.1),
        Tube(half.elbow, half.wrist, fore, fore, _sleeve(person, top.sleeves - 1),
             crease=0.1),
        Tube(half.wrist, hand, _scaled((0.017, 0.022, 0.014), person.height),
             _scaled((0.017, 0.022, 0.014), person.height), plain(person.skin)),
    ]  # fmt: skip


def _sleeve(person: Person, covered: float) -> Paint:
    if covered <= 0:
        return plain(person.skin)
    fabric = person.top.fabric
    if fabric.pattern == "two-tone":
        fabric = Fabric("plain", fabric.second, fabric.base, fabric.period, fabric.phase)
    base = cloth(fabric, 0.29, 0.06)
    edge = covered if covered < 1 else 2.0

    def paint(along: Array, angle: Array) -> Array:
        return np.where((along < edge)[:, None], base(along, angle), person.skin)

    return paint


def _skirts(person: Person, right: Side, left: Side) -> list[Tube]:
    h, tubes = person.height, []
    middle = (right.hip + left.hip) / 2
    knees = abs(float(right.knee[2] - left.knee[2])) / 2
    drift = float(right.knee[2] + left.knee[2]) / 4
    for hem, fabric, flare in (
        (person.bottom.hem if person.bottom.kind == "skirt" else 1.0, person.bottom.fabric,
         person.bottom.width),
        (person.top.hem if person.top.hem < 0.43 else 1.0, person.top.fabric, 1.1),
    ):  # fmt: skip
        if hem == 1.0:
            continue
        size = h * (0.4 + 0.6 * person.build)
        reach = 0.5 * knees * (0.52 - hem) / 0.25
        wide = _scaled((0.094, 0.108, 0.104 + 0.02 * flare, 0.09 + 0.035 * flare), size)
        deep = tuple(d * size + reach * i / 3 for i, d in enumerate((0.074, 0.086, 0.088, 0.088)))
        start = _point(0, float(middle[1]) + 0.03 * h, 0)
        end = _point(0, float(middle[1]) - (0.52 - hem) * h, drift)
        paint = cloth(fabric, float(start[1] - end[1]), 0.17)
        tubes.append(Tube(start, end, wide, deep, paint, (0.1, 0.15), 0.12))
    return tubes


def _head(person: Person, pose: Pose, left: Side) -> list[Tube]:
    h = person.height
    base, lean = float(left.shoulder[1]) + 0.015 * h, float(left.shoulder[2])
    nape, jaw = _point(0, base, lean), _point(0, base + 0.09 * h, lean + 0.012 * h)
    throat = _scaled((0.032, 0.03), h)
    neck = Tube(nape, jaw, throat, throat, plain(person.skin))
    chin, crown = (_point(0, base + dy * h, lean + 0.016 * h) for dy in (0.09, 0.145))
    head = Tube(chin, crown, _scaled((0.036, 0.044, 0.043), h), _scaled((0.044, 0.052, 0.05), h),
                _face(person, pose.head))  # fmt: skip
    tubes = [neck, head]
    if person.hair_length > 0.2 and not person.bun:
        length = (0.04 + 0.12 * person.hair_length) * h
        tubes.append(Tube(crown + _point(0, 0, -0.012 * h), chin + _point(0, -length, -0.038 * h),
                          _scaled((0.046, 0.053, 0.048, 0.036), h),
                          _scaled((0.046, 0.036, 0.028, 0.018), h),
                          plain(person.hair), crease=0.15))  # fmt: skip
    if person.bun:
        knot = crown + _point(0, -0.005 * h, -0.058 * h)
        tubes.append(Tube(knot, knot + _point(0, 0.008, 0), _scaled((0.024, 0.024), h),
                          _scaled((0.024, 0.024), h), plain(person.hair)))  # fmt: skip
    if person.top.hood:
        nape = _point(0, base + 0.02 * h, lean - 0.045 * h)
        tubes.append(Tube(nape, nape + _point(0, 0.035 * h, 0.015 * h), _scaled((0.06, 0.05), h),
                          _scaled((0.035, 0.03), h), plain(person.top.fabric.base)))  # fmt: skip
    return tubes + _hat(person, crown, pose.head)


def _face(person: Person, turn: float) -> Paint:
    hat = person.hat != "none"

    def paint(along: Array, angle: Array) -> Array:
        front = np.abs(angle - turn)
        hairy = front > 0.95 + 0.35 * (1 - along) + (0.8 if person.hair_length == 0 else 0)
        hairy |= (along > 0.86) & (person.hair_length > 0)
        colour = np.where(hairy[:, None], person.hair, person.skin)
        eyes = (np.abs(along - 0.5) < 0.1) & (front > 0.15) & (front < 0.65)
        colour = np.where(eyes[:, None], person.skin * 0.45, colour)
        if hat:
            colour = np.where((along > 0.78)[:, None], person.hat_colour, colour)
        return colour.astype(np.float32)

    return paint


def _hat(person: Person, crown: Array, turn: float) -> list[Tube]:
    h = person.height
    if person.hat == "none":
        return []
    shell = _scaled((0.049, 0.047), h), _scaled((0.056, 0.053), h)
    tubes = [Tube(crown + _point(0, -0.008 * h, 0), crown + _point(0, 0.008 * h, -0.004 * h),
                  *shell, plain(person.hat_colour))]  # fmt: skip
    if person.hat == "cap":
        ahead = _point(float(np.sin(turn)), 0, float(np.cos(turn)))
        start = crown + ahead * np.float32(0.03 * h)
        tubes.append(Tube(start, crown + ahead * np.float32(0.085 * h) + _point(0, -0.012, 0),
                          _scaled((0.036, 0.03), h), _scaled((0.012, 0.006), h),
                          plain(person.hat_colour * np.float32(0.8))))  # fmt: skip
    return tubes
