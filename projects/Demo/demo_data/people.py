"""Sampling of identities: body, hair, clothes, shoes and bags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo_data.tube import Array, Fabric

# Display colour and weight. Black, blue, grey and white are frequent, so that identities are
# confusable, as they are in surveillance video.
CLOTHES: dict[str, float] = {
    "1c1c20": 20, "33353a": 11, "55585c": 7, "8d9092": 6, "bcbdbb": 5, "e6e5e0": 12,
    "1f2840": 9, "2f4770": 6, "5f83ad": 4, "a9bdd0": 2.5, "5a4636": 4, "8c7355": 3.5,
    "c4b495": 4, "7a2429": 4, "b23a3a": 3, "d98d94": 2, "35502f": 2.5, "5e6b3f": 3,
    "4f7f62": 1.5, "4c3560": 2, "8f6aa0": 1, "c98a2e": 1.2, "d9c25a": 1.2, "c85f2c": 1.0,
    "2f7f86": 1.3,
}  # fmt: skip
TROUSERS: dict[str, float] = {
    "1d1d20": 22, "34363b": 12, "5a5c60": 6, "26304a": 14, "3d5478": 14, "6a86a8": 8,
    "8b7a60": 6, "b8a988": 5, "4a3b30": 5, "c9c7c0": 3, "4d5340": 4, "70302f": 1,
}  # fmt: skip
SHOES: dict[str, float] = {"1a1a1b": 40, "e0dfdb": 22, "4b3729": 16, "6b6d70": 10, "8a2f30": 4}
BAGS: dict[str, float] = {
    "1b1b1e": 36, "2b3550": 12, "54565a": 12, "5b4332": 12, "7a2a2c": 8, "49583c": 6,
    "b79d78": 6, "d6d2c8": 4, "37707d": 4,
}  # fmt: skip
HAIR: dict[str, float] = {"141213": 38, "2c211b": 24, "4d3826": 14, "7d6038": 7, "9a958f": 7}
SKIN: dict[str, float] = {"e3b99a": 34, "d6a37f": 30, "b98560": 16, "8a5b40": 11, "5b3a2a": 9}


PATTERNS = {
    "plain": 58, "stripes": 8, "bars": 3, "checks": 7, "two-tone": 8, "blotches": 5, "print": 11,
}  # fmt: skip


def linear(display: Array | float) -> Array:
    """Return linear light of a display value in [0, 1], with a gamma of 2.2."""
    return np.power(np.asarray(display, np.float32), np.float32(2.2))


def parse(code: str) -> Array:
    """Return the display colour in [0, 1] of a six-digit hexadecimal code."""
    return np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255


def pick(rng: np.random.Generator, palette: dict[str, float], spread: float = 0.05) -> Array:
    """Draw a colour.

    Args:
        rng: the random stream.
        palette: display colours with their weights.
        spread: standard deviation of the lightness and, halved, of each channel.

    Returns:
        Reflectance of shape (3,), linear, in [0.01, 0.85].
    """
    weights = np.fromiter(palette.values(), float)
    code = list(palette)[rng.choice(len(weights), p=weights / weights.sum())]
    shift = rng.normal(0, spread) + rng.normal(0, spread / 2, 3)
    return np.clip(linear(np.clip(parse(code) + shift, 0.06, 0.95)), 0.01, 0.85).astype(np.float32)


def vary(rng: np.random.Generator, colour: Array, low: float, high: float) -> Array:
    """Return a lighter or darker tone of a reflectance, scaled by a factor in [low, high]."""
    return np.clip(colour * rng.uniform(low, high), 0.008, 0.9).astype(np.float32)


@dataclass(frozen=True)
class Wardrobe:
    """What people of a domain wear.

    Attributes:
        warmth: 0 in a hot summer, 1 in winter.
        bags: probability of a bag of any kind.
        trolleys: probability that a bag is a trolley case.
    """

    warmth: float
    bags: float
    trolleys: float = 0.0


@dataclass(frozen=True)
class Top:
    """Upper garments.

    Attributes:
        fabric: cloth of the outer garment.
        sleeves: covered part of the arm, from 0 to 2 (elbow at 1).
        hem: height of the lower edge as a fraction of the body height.
        opening: half angle of the open front in radians, 0 if closed.
        inner: reflectance of what shows in the opening and at the neck.
        hood: whether a hood lies on the shoulders.
        bulk: thickness of the garment as a factor on the torso.
        motif: reflectance of a print.
        motif_box: half angle, bottom and top of a print on the chest or back, None if none.
        motif_behind: whether the print is on the back.
    """

    fabric: Fabric
    sleeves: float
    hem: float
    opening: float
    inner: Array
    hood: bool
    bulk: float
    motif: Array
    motif_box: tuple[float, float, float] | None
    motif_behind: bool


@dataclass(frozen=True)
class Bottom:
    """Lower garments: kind "trousers", "shorts" or "skirt"; hem as a fraction of body height."""

    kind: str
    fabric: Fabric
    hem: float
    width: float
    fade: float


@dataclass(frozen=True)
class Bag:
    """A bag: kind "none", "backpack", "satchel", "handbag" or "trolley"; side -1 or 1."""

    kind: str
    colour: Array
    side: int
    size: float


@dataclass(frozen=True)
class Person:
    """One identity."""

    height: float
    build: float
    female: bool
    skin: Array
    hair: Array
    hair_length: float
    bun: bool
    hat: str
    hat_colour: Array
    top: Top
    bottom: Bottom
    shoes: Array
    sole: Array
    sock: Array
    bag: Bag
    gait: float
    fold: int


def sample_person(rng: np.random.Generator, wardrobe: Wardrobe) -> Person:
    """Draw an identity.

    Args:
        rng: the identity's random stream.
        wardrobe: what people of its domain wear.
    """
    female = bool(rng.random() < 0.48)
    skin = pick(rng, SKIN, 0.03)
    dress = female and rng.random() < 0.16 * (1.3 - wardrobe.warmth)
    top = _dress_top(rng, wardrobe) if dress else _top(rng, wardrobe)
    bottom = _bottom(rng, wardrobe, female, top.fabric if dress else None)
    hat = _hat(rng, wardrobe)
    shoes = pick(rng, SHOES)
    return Person(
        height=float(np.clip(rng.normal(1.64 if female else 1.75, 0.07), 1.45, 1.95)),
        build=float(np.clip(rng.normal(0.98 if female else 1.04, 0.1), 0.82, 1.35)),
        female=female,
        skin=skin,
        hair=pick(rng, HAIR, 0.03),
        hair_length=float(rng.choice([0.15, 0.5, 1.0], p=[0.2, 0.3, 0.5]) if female else
                          rng.choice([0.0, 0.12, 0.3], p=[0.1, 0.72, 0.18])),
        bun=female and bool(rng.random() < 0.3),
        hat=hat,
        hat_colour=pick(rng, CLOTHES),
        top=top,
        bottom=bottom,
        shoes=shoes,
        sole=pick(rng, {"dfddd8": 1, "2a2826": 1}),
        sock=pick(rng, {"e6e6e2": 3, "26262a": 3, "8a8a8c": 1}),
        bag=_bag(rng, wardrobe, female),
        gait=float(rng.uniform(0.7, 1.1)),
        fold=int(rng.integers(8)),
    )  # fmt: skip


def _fabric(rng: np.random.Generator, palette: dict[str, float], patterned: float) -> Fabric:
    base = pick(rng, palette)
    second = pick(rng, palette)
    if abs(float(base.mean() - second.mean())) < 0.08:
        second = vary(rng, base, 2.2, 4) if base.mean() < 0.2 else vary(rng, base, 0.15, 0.4)
    weights = np.array(list(PATTERNS.values()), float)
    weights[1:] *= patterned
    pattern = str(rng.choice(list(PATTERNS), p=weights / weights.sum()))
    coarse = 0.45 if pattern == "blotches" else 1.0
    period = float(rng.choice([0.05, 0.075, 0.11, 0.16], p=[0.25, 0.3, 0.3, 0.15])) / coarse
    return Fabric(pattern, base, second, period, float(rng.random()))


def _top(rng: np.random.Generator, wardrobe: Wardrobe) -> Top:
    outer = rng.random() < 0.15 + 0.7 * wardrobe.warmth
    coat = outer and rng.random() < 0.28 * wardrobe.warmth
    fabric = _fabric(rng, CLOTHES, 0.55 if outer else 1.0)
    open_front = bool(outer and rng.random() < 0.45)
    sleeves = 1.95 if outer or rng.random() < 0.1 + 0.5 * wardrobe.warmth else rng.uniform(0.35, 1)
    width, low, high = (
        float(rng.uniform(*span)) for span in ((0.4, 0.75), (0.45, 0.6), (0.7, 0.85))
    )
    return Top(
        fabric=fabric,
        sleeves=float(sleeves),
        hem=float(rng.uniform(0.3, 0.4) if coat else rng.uniform(0.455, 0.52)),
        opening=float(rng.uniform(0.2, 0.5)) if open_front else 0.0,
        inner=pick(rng, CLOTHES),
        hood=bool(outer and rng.random() < 0.35),
        bulk=float(rng.uniform(1.08, 1.2) if outer else rng.uniform(0.98, 1.08)),
        motif=fabric.second,
        motif_box=(width, low, high) if fabric.pattern == "print" else None,
        motif_behind=bool(rng.random() < 0.3),
    )  # fmt: skip


def _dress_top(rng: np.random.Generator, wardrobe: Wardrobe) -> Top:
    fabric = _fabric(rng, CLOTHES, 1.4)
    sleeves = float(rng.choice([0.15, 0.5, 1.9], p=[0.4, 0.35, 0.25]))
    inner = pick(rng, CLOTHES)
    return Top(fabric, sleeves, 0.52, 0.0, inner, False, 1.0, fabric.second, None, False)


def _bottom(
    rng: np.random.Generator, wardrobe: Wardrobe, female: bool, dress: Fabric | None
) -> Bottom:
    if dress is not None:
        return Bottom("skirt", dress, float(rng.uniform(0.16, 0.33)), float(rng.uniform(1, 1.3)), 0)
    bare = (1 - wardrobe.warmth) * 0.5
    draw = rng.random()
    fabric = _fabric(rng, TROUSERS, 0.12)
    if female and draw < bare * 0.7:
        fabric = _fabric(rng, {**TROUSERS, **CLOTHES}, 0.8)
        hem, width = rng.uniform(0.22, 0.36), rng.uniform(1, 1.35)
        return Bottom("skirt", fabric, float(hem), float(width), 0)
    if draw < bare * 1.3:
        hem, width = rng.uniform(0.27, 0.38), rng.uniform(1, 1.25)
        return Bottom("shorts", fabric, float(hem), float(width), 0)
    fade = float(rng.uniform(0.2, 0.9)) if rng.random() < 0.4 else 0.0
    return Bottom("trousers", fabric, 0.04, float(rng.uniform(0.85, 1.25)), fade)


def _hat(rng: np.random.Generator, wardrobe: Wardrobe) -> str:
    if rng.random() > 0.12:
        return "none"
    return "beanie" if rng.random() < wardrobe.warmth else "cap"


def _bag(rng: np.random.Generator, wardrobe: Wardrobe, female: bool) -> Bag:
    kind = "none"
    if rng.random() < wardrobe.bags:
        odds = [0.5, 0.24, 0.18 if not female else 0.5]
        kind = str(rng.choice(["backpack", "satchel", "handbag"], p=np.array(odds) / sum(odds)))
        if rng.random() < wardrobe.trolleys:
            kind = "trolley"
    side = 1 if rng.random() < 0.5 else -1
    return Bag(kind, pick(rng, BAGS), side, float(rng.uniform(0.85, 1.2)))
