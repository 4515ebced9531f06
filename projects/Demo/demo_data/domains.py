"""The nine domains: how each looks, before any camera is drawn.

The values describe what the real datasets show: campus in summer or winter, street, airport,
underground, movies. They were set by looking at pictures, never at training results.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from demo_data.people import Wardrobe

Span = tuple[float, float]


@dataclass(frozen=True)
class Domain:
    """Ranges from which the cameras of a domain are drawn.

    Attributes:
        wardrobe: what its people wear.
        scenes: kinds of background.
        elevation: angle of the camera above the horizontal (radians).
        distance: metres from the camera to the person.
        ambient: fraction of light without direction.
        exposure: brightness of the light; 1 shows a white shirt as white.
        warmth: colour temperature; positive is reddish, negative bluish.
        tint: positive is greenish, negative is purplish.
        saturation: colour strength, 1 as it is.
        contrast: slope of the tone curve.
        black: light that haze or glare adds everywhere.
        detail: rows that the optics resolve in one crop.
        noise: standard deviation of the sensor noise in display values of 0 to 1.
        quality: JPEG quality of the video.
        sharpen: strength of the camera's edge enhancement.
        misfit: standard deviation of the crop's shift and scale, relative to the person.
        standing: probability that a person stands.
        crowd: probability of another person behind.
        occluder: probability of something or somebody in front.
        yaws: typical facing directions (radians), drawn per camera; 0 is towards the camera.
        turn: standard deviation of the facing direction around the typical one.
        height: rows of a stored image, from and to.
        aspect: width divided by height of a stored image, from and to.
    """

    wardrobe: Wardrobe
    scenes: tuple[str, ...]
    elevation: Span
    distance: Span
    ambient: Span
    exposure: Span
    warmth: Span
    tint: Span
    saturation: Span
    contrast: Span
    black: Span
    detail: Span
    noise: Span
    quality: Span
    sharpen: Span
    misfit: float
    standing: float
    crowd: float
    occluder: float
    yaws: tuple[float, ...]
    turn: float
    height: tuple[int, int]
    aspect: Span


DOMAINS: dict[str, Domain] = {
    "cuhk02": Domain(
        Wardrobe(0.35, 0.65), ("corridor", "plaza", "lawn"), (0.18, 0.42), (6, 12), (0.5, 0.75),
        (0.9, 1.35), (-0.05, 0.06), (0.0, 0.05), (0.65, 0.9), (0.85, 1.05), (0.005, 0.025),
        (75, 115), (0.012, 0.03), (55, 80), (0.0, 0.3), 0.025, 0.15, 0.2, 0.06,
        (0.3, -0.6, 2.8, 1.5, -1.5), 0.5, (160, 160), (0.375, 0.375),
    ),
    "cuhk03": Domain(
        Wardrobe(0.45, 0.6), ("corridor", "plaza"), (0.15, 0.4), (6, 12), (0.45, 0.7),
        (0.75, 1.2), (-0.04, 0.1), (-0.02, 0.03), (0.75, 1.0), (0.95, 1.2), (0.0, 0.012),
        (90, 150), (0.01, 0.02), (60, 85), (0.2, 0.6), 0.055, 0.2, 0.3, 0.1,
        (0.0, 3.1, 1.2, -1.0), 0.5, (150, 270), (0.34, 0.46),
    ),
    "market1501": Domain(
        Wardrobe(0.1, 0.6), ("plaza", "lawn"), (0.08, 0.3), (7, 14), (0.45, 0.65),
        (1.1, 1.5), (-0.05, 0.05), (0.0, 0.06), (0.75, 1.0), (0.9, 1.1), (0.005, 0.02),
        (85, 125), (0.008, 0.02), (60, 88), (0.2, 0.6), 0.045, 0.2, 0.25, 0.1,
        (0.2, 3.0, 1.5, -1.4, 2.3, -0.7), 0.6, (128, 128), (0.5, 0.5),
    ),
    "dukemtmc": Domain(
        Wardrobe(0.85, 0.7), ("street", "plaza", "lawn"), (0.2, 0.45), (9, 18), (0.55, 0.8),
        (0.6, 1.0), (-0.02, 0.08), (-0.02, 0.02), (0.5, 0.8), (0.8, 1.0), (0.008, 0.03),
        (80, 150), (0.008, 0.02), (65, 88), (0.0, 0.3), 0.04, 0.15, 0.25, 0.15,
        (0.3, 2.9, 1.4, -1.3, 2.2, -2.4), 0.6, (140, 260), (0.36, 0.5),
    ),
    "cuhksysu": Domain(
        Wardrobe(0.4, 0.5), ("movie", "street", "movie", "platform"), (-0.02, 0.15), (3.5, 8),
        (0.3, 0.7), (0.45, 1.3), (-0.12, 0.16), (-0.03, 0.03), (0.7, 1.2), (0.9, 1.35),
        (0.0, 0.02), (90, 140), (0.004, 0.015), (65, 92), (0.0, 0.4), 0.03, 0.4, 0.35, 0.15,
        (0.0, 0.6, -0.6, 3.0, 1.5), 0.5, (128, 128), (0.5, 0.5),
    ),
    "viper": Domain(
        Wardrobe(0.25, 0.6), ("street", "lawn"), (0.02, 0.15), (7, 12), (0.3, 0.6),
        (0.8, 1.45), (-0.1, 0.12), (-0.02, 0.03), (0.7, 1.05), (0.95, 1.2), (0.0, 0.025),
        (62, 85), (0.012, 0.03), (50, 75), (0.0, 0.4), 0.03, 0.15, 0.05, 0.02,
        (0.3, 1.6), 0.6, (128, 128), (0.375, 0.375),
    ),
    "prid": Domain(
        Wardrobe(0.4, 0.45), ("street", "plaza"), (0.25, 0.42), (10, 18), (0.4, 0.7),
        (0.7, 1.3), (-0.12, 0.08), (0.0, 0.07), (0.45, 0.75), (0.85, 1.15), (0.0, 0.03),
        (60, 85), (0.01, 0.025), (50, 75), (0.0, 0.5), 0.02, 0.1, 0.08, 0.03,
        (1.5, -1.4), 0.35, (128, 128), (0.5, 0.5),
    ),
    "grid": Domain(
        Wardrobe(0.7, 0.5), ("platform", "corridor"), (0.25, 0.5), (5, 10), (0.5, 0.8),
        (0.5, 0.95), (-0.02, 0.14), (0.0, 0.06), (0.35, 0.7), (0.85, 1.15), (0.005, 0.045),
        (50, 80), (0.02, 0.045), (30, 60), (0.3, 0.9), 0.04, 0.3, 0.3, 0.12,
        (0.2, 3.0, 1.5, -1.5), 0.5, (130, 300), (0.38, 0.5),
    ),
    "ilids": Domain(
        Wardrobe(0.55, 0.75, 0.45), ("corridor",), (0.12, 0.35), (5, 10), (0.5, 0.75),
        (0.75, 1.3), (-0.08, 0.08), (-0.01, 0.04), (0.5, 0.8), (0.85, 1.1), (0.005, 0.035),
        (65, 100), (0.012, 0.03), (45, 75), (0.1, 0.5), 0.05, 0.35, 0.5, 0.35,
        (0.3, 2.8, 1.4, -1.6), 0.8, (110, 230), (0.38, 0.5),
    ),
}  # fmt: skip


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the random generator that belongs to a name.

    Args:
        seed: seed of the whole benchmark.
        *names: what the numbers are for, such as dataset, "person" and number.
    """
    word = zlib.crc32("/".join(str(name) for name in names).encode())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, word])))


@dataclass(frozen=True)
class Shot:
    """One image to draw.

    Attributes:
        dataset: key of ``DOMAINS``.
        path: where it is stored, relative to the datasets root, with ``{yaw}`` where the name
            tells the facing direction.
        person: name of the identity within the dataset; empty for a false detection.
        camera: number of the camera within the dataset.
        number: number of the image, unique within the dataset.
    """

    dataset: str
    path: str
    person: str
    camera: int
    number: int


def plan(seed: int, scale: float) -> list[Shot]:
    """Return all images of the benchmark.

    Args:
        seed: seed of the benchmark.
        scale: factor on the number of identities.
    """
    makers = (_cuhk02, _cuhk03, _market1501, _dukemtmc, _cuhksysu, _viper, _prid, _grid, _ilids)
    return [shot for maker in makers for shot in maker(seed, scale)]


def _count(base: int, scale: float, least: int = 4) -> int:
    return max(least, round(base * scale))


def _cuhk02(seed: int, scale: float) -> Iterator[Shot]:
    number = 0
    for pair in range(1, 6):
        for identity in range(1, _count(14, scale, 2) + 1):
            for camera in (1, 2):
                for _ in range(4):
                    path = f"cuhk02/Dataset/P{pair}/cam{camera}/{identity:03d}_{number:05d}.png"
                    person = f"P{pair}-{identity}"
                    yield Shot("cuhk02", path, person, 2 * pair + camera - 3, number)
                    number += 1


def _cuhk03(seed: int, scale: float) -> Iterator[Shot]:
    number = 0
    for pair in range(1, 6):
        # The last two pairs of the real dataset are small.
        for identity in range(1, _count((24, 22, 18, 3, 3)[pair - 1], scale, 1) + 1):
            for image in range(1, 9):
                view = 1 if image <= 4 else 2
                path = f"cuhk03/images_detected/{pair}_{identity:03d}_{view}_{image:02d}.png"
                yield Shot("cuhk03", path, f"P{pair}-{identity}", 2 * pair + view - 3, number)
                number += 1


def _cameras(rng: np.random.Generator, count: int, images: int) -> list[int]:
    """Return the cameras, at least two, of one person's images."""
    seen = rng.permutation(count)[: int(rng.integers(3, min(5, count) + 1))]
    return sorted(int(seen[i % len(seen)]) for i in range(images))


def _partitioned(
    dataset: str, seed: int, people: list[tuple[int, str]], cameras: int
) -> Iterator[tuple[str, int, int, int]]:
    """Yield folder, identity, camera and image number of a dataset with three folders."""
    number = 0
    for identity, part in people:
        rng = stream(seed, dataset, "plan", identity)
        asked: set[int] = set()
        for camera in _cameras(rng, cameras, 8):
            folder = "bounding_box_train" if part == "train" else "bounding_box_test"
            if part == "test" and camera not in asked:
                folder = "query"
                asked.add(camera)
            yield folder, identity, camera, number
            number += 1


def _halves(count: int) -> list[tuple[int, str]]:
    return [(i, "train" if i % 2 else "test") for i in range(1, count + 1)]


def _market1501(seed: int, scale: float) -> Iterator[Shot]:
    root, number = "Market-1501-v15.09.15", 0
    people = _halves(_count(72, scale))
    for folder, identity, camera, number in _partitioned("market1501", seed, people, 6):
        place = f"c{camera + 1}s{1 + number % 3}"
        name = f"{identity:04d}_{place}_{number * 37:06d}_{number % 5:02d}.jpg"
        yield Shot("market1501", f"{root}/{folder}/{name}", str(identity), camera, number)
    rng = stream(seed, "market1501", "plan", "junk")
    for extra in range(_count(24, scale, 2)):
        number += 1
        label, person = ("0000", f"stranger-{extra}") if extra % 2 else ("-1", "")
        camera = int(rng.integers(6))
        name = f"{label}_c{camera + 1}s1_{number * 37:06d}_00.jpg"
        yield Shot("market1501", f"{root}/bounding_box_test/{name}", person, camera, number)


def _dukemtmc(seed: int, scale: float) -> Iterator[Shot]:
    people = _halves(_count(72, scale))
    for folder, identity, camera, number in _partitioned("dukemtmc", seed, people, 8):
        name = f"{identity:04d}_c{camera + 1}_f{40000 + number * 61:07d}.jpg"
        yield Shot("dukemtmc", f"DukeMTMC-reID/{folder}/{name}", str(identity), camera, number)


def _cuhksysu(seed: int, scale: float) -> Iterator[Shot]:
    number = 0
    for identity in range(1, _count(76, scale) + 1):
        rng = stream(seed, "cuhksysu", "plan", identity)
        scenes = rng.integers(0, _count(60, scale, 8), 3)
        for image in range(1, int(rng.integers(6, 10)) + 1):
            scene = int(scenes[image % 3])
            path = f"cuhk_sysu/cropped_images/p{identity}_s{scene + 1}_{image}.jpg"
            yield Shot("cuhksysu", path, str(identity), scene, number)
            number += 1


def _viper(seed: int, scale: float) -> Iterator[Shot]:
    for identity in range(_count(80, scale)):
        for camera, side in enumerate("ab"):
            path = f"VIPeR/cam_{side}/{identity:03d}_{{yaw}}.bmp"
            yield Shot("viper", path, str(identity), camera, 2 * identity + camera)


def _prid(seed: int, scale: float) -> Iterator[Shot]:
    shared, only_a, only_b = (_count(base, scale) for base in (60, 40, 120))
    number = 0
    for camera, (side, alone) in enumerate((("a", only_a), ("b", only_b))):
        # Numbers up to 200 are shared persons; above, each camera counts its own.
        for identity in (*range(1, shared + 1), *range(201, 201 + alone)):
            path = f"prid_2011/single_shot/cam_{side}/person_{identity:04d}.png"
            person = str(identity) if identity <= shared else f"{side}-{identity}"
            yield Shot("prid", path, person, camera, number)
            number += 1


def _grid(seed: int, scale: float) -> Iterator[Shot]:
    paired, strangers = _count(50, scale), _count(150, scale)
    rng = stream(seed, "grid", "plan")
    sightings = []
    for identity in range(1, paired + 1):
        cameras = rng.permutation(8)[:2]
        sightings += [("probe", identity, int(cameras[0])), ("gallery", identity, int(cameras[1]))]
    sightings += [("gallery", 0, int(rng.integers(8))) for _ in range(strangers)]
    for number, (side, identity, camera) in enumerate(sightings):
        name = f"{identity:04d}_{camera + 1}_{25004 + number * 23}_107_32_106_221.jpeg"
        person = str(identity) if identity else f"stranger-{number}"
        yield Shot("grid", f"underground_reid/{side}/{name}", person, camera, number)


def _ilids(seed: int, scale: float) -> Iterator[Shot]:
    number = 0
    for identity in range(1, _count(60, scale) + 1):
        rng = stream(seed, "ilids", "plan", identity)
        count = int(rng.choice([2, 3, 4, 5, 6, 8], p=[0.15, 0.2, 0.35, 0.15, 0.1, 0.05]))
        for image in range(1, count + 1):
            path = f"i-LIDS_Pedestrian/Persons/{identity:04d}{image:03d}.jpg"
            yield Shot("ilids", path, str(identity), int(rng.integers(4)), number)
            number += 1
