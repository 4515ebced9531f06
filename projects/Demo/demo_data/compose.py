"""One picture: background, shadow, people behind, the person, what hides it, the camera."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo_data.body import person_tubes, sample_pose
from demo_data.camera import Camera, draw_camera, expose, record
from demo_data.domains import DOMAINS, Domain, Shot, stream
from demo_data.people import Person, linear, sample_person
from demo_data.scenes import draw_scene, window
from demo_data.tube import Array, Canvas, View

ROWS = 320
GROUND_LIGHT = np.float32(0.95)


@dataclass(frozen=True)
class Frame:
    """Where the person stands in the crop.

    Attributes:
        size: columns and rows of the drawing.
        scale: pixels per metre.
        foot: pixel of the ground point below the person.
    """

    size: tuple[int, int]
    scale: float
    foot: tuple[float, float]


def picture(
    rng: np.random.Generator, person: Person, camera: Camera, domain: Domain, scene: np.ndarray
) -> Image.Image:
    """Draw one crop.

    Args:
        rng: the image's random stream.
        person: who is shown.
        camera: which camera sees it.
        domain: the camera's domain.
        scene: the camera's background.

    Returns:
        The stored image, in the domain's native size.
    """
    rows = int(rng.integers(domain.height[0], domain.height[1] + 1))
    size = (round(rows * rng.uniform(*domain.aspect)), rows)
    frame = _frame(rng, person, camera, domain, size)
    backdrop = window(scene, rng, frame.size, frame.scale / 190)
    light = linear(backdrop / np.float32(255)) * GROUND_LIGHT
    while rng.random() < domain.crowd * 0.7:
        _bystander(rng, light, frame, camera, domain, behind=True)
    yaw = camera.yaw + float(rng.normal(0, camera.turn))
    view = View(yaw, camera.elevation, camera.distance, frame.scale, frame.foot, camera.roll)
    _shadow(light, frame, person.height, camera)
    _draw(rng, light, person, view, camera, domain.standing)
    if rng.random() < domain.occluder:
        _occlude(rng, light, frame, camera, domain)
    return record(expose(light, camera, float(np.exp(rng.normal(0, 0.1)))), camera, size, rng)


def _frame(
    rng: np.random.Generator, person: Person, camera: Camera, domain: Domain, size: tuple[int, int]
) -> Frame:
    width = round(ROWS * size[0] / size[1])
    # Taller people appear only slightly taller: the crop follows the person.
    usual = person.height * 0.8 + 1.7 * 0.2
    spread = domain.misfit
    fill = np.clip(rng.normal(0.9, 0.6 * spread), 0.72, 1.08)
    seen = usual * np.cos(camera.elevation) + 0.22 * np.sin(abs(camera.elevation))
    scale = float(ROWS * fill / seen)
    x = width * (0.5 + rng.normal(0, spread))
    y = ROWS * (0.5 + fill / 2 - 0.012 + rng.normal(0, 0.6 * spread))
    return Frame((width, ROWS), scale, (float(x), float(y)))


def _draw(
    rng: np.random.Generator,
    light: Array,
    person: Person,
    view: View,
    camera: Camera,
    standing: float,
) -> None:
    canvas = Canvas(light.shape[1], light.shape[0])
    for tube in person_tubes(person, sample_pose(rng, standing)):
        canvas.draw(tube, view, camera.light, person.fold)
    covered = canvas.covered
    light[covered] = (canvas.colour * _depth_shade(canvas)[..., None])[covered]


def _depth_shade(canvas: Canvas) -> Array:
    # Parts close behind others get less light: an arm darkens the torso beside it.
    covered = canvas.covered
    near = np.where(covered, canvas.near, np.float32(0)).astype(np.float32)
    weight = covered.astype(np.float32)
    ahead = _box_sum(near, 6) / np.maximum(_box_sum(weight, 6), 1)
    return 1 - np.clip((ahead - near) * np.float32(2.6), 0, np.float32(0.42))


def _box_sum(values: Array, radius: int) -> Array:
    for axis in (0, 1):
        padded = np.pad(values, [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)])
        total = np.cumsum(padded, axis=axis, dtype=np.float64)
        size = values.shape[axis]
        upper = np.take(total, range(2 * radius + 1, 2 * radius + 1 + size), axis=axis)
        values = (upper - np.take(total, range(size), axis=axis)).astype(np.float32)
    return values


def _shadow(light: Array, frame: Frame, height: float, camera: Camera) -> None:
    """Darken the ground below a person and on the side away from the light."""
    width, rows = frame.size
    mask = Image.new("L", (width // 4, rows // 4), 0)
    pen = ImageDraw.Draw(mask)
    x, y = frame.foot[0] / 4, frame.foot[1] / 4
    step = frame.scale / 4
    flat = 0.1 + 0.6 * abs(np.sin(camera.elevation))
    contact = (x - 0.3 * step, y - 0.24 * step * flat, x + 0.3 * step, y + 0.2 * step * flat)
    pen.ellipse(contact, fill=150)
    lx, ly, lz = camera.light.direction
    reach = height * step * min(1.6, float(np.hypot(lx, lz)) / max(ly, 0.2))
    norm = max(float(np.hypot(lx, lz)), 1e-3)
    tip = (x - reach * lx / norm, y + reach * lz / norm * flat)
    strength = int(190 * (1 - camera.light.ambient))
    pen.line((x, y, *tip), fill=strength, width=max(2, int(0.32 * step)))
    soft = mask.filter(ImageFilter.GaussianBlur(1.5 + 3 * camera.light.ambient))
    dark = np.asarray(soft.resize((width, rows), Image.Resampling.BILINEAR), np.float32)
    light *= 1 - np.float32(0.75 / 255) * dark[..., None]


def _bystander(
    rng: np.random.Generator,
    light: Array,
    frame: Frame,
    camera: Camera,
    domain: Domain,
    *,
    behind: bool,
) -> None:
    person = sample_person(rng, domain.wardrobe)
    side = 1 if rng.random() < 0.5 else -1
    if behind:
        offset = side * rng.uniform(0.35, 0.95) * frame.scale
        lift, size = -rng.uniform(0.02, 0.3) * frame.scale, rng.uniform(0.7, 0.97)
    else:
        offset = side * rng.uniform(0.42, 0.62) * frame.scale
        lift, size = rng.uniform(0.1, 0.45) * frame.scale, rng.uniform(1.0, 1.15)
    foot = (frame.foot[0] + float(offset), frame.foot[1] + float(lift))
    scale = frame.scale * float(size)
    yaw = float(rng.uniform(-np.pi, np.pi))
    _shadow(light, Frame(frame.size, scale, foot), person.height, camera)
    view = View(yaw, camera.elevation, camera.distance, scale, foot, camera.roll)
    _draw(rng, light, person, view, camera, domain.standing)


def _occlude(
    rng: np.random.Generator, light: Array, frame: Frame, camera: Camera, domain: Domain
) -> None:
    kind = rng.choice(["person", "post", "box"], p=[0.55, 0.15, 0.3])
    width, rows = frame.size
    if kind == "person":
        _bystander(rng, light, frame, camera, domain, behind=False)
        return
    shade = np.float32(rng.uniform(0.03, 0.4)) * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    if kind == "post":
        left = int(rng.uniform(0, width * 0.9))
        part = light[:, left : left + int(rng.uniform(0.06, 0.12) * width)]
    else:
        left = int(rng.uniform(-0.4, 0.8) * width)
        right = max(0, left + int(rng.uniform(0.3, 0.7) * width))
        part = light[int(rng.uniform(0.68, 0.85) * rows) :, max(0, left) : right]
    gradient = np.linspace(1.2, 0.7, part.shape[1], dtype=np.float32)[None, :, None]
    part[:] = shade * gradient


@functools.lru_cache(maxsize=4)
def _stage(seed: int, dataset: str, index: int) -> tuple[Camera, np.ndarray]:
    camera = draw_camera(stream(seed, dataset, "camera", index), DOMAINS[dataset], index)
    rng = stream(seed, dataset, "scene", index)
    return camera, draw_scene(rng, camera.scene, camera.elevation)


def draw_shots(seed: int, output: Path, shots: Sequence[Shot]) -> int:
    """Draw images into their files; their folders must exist.

    Args:
        seed: seed of the benchmark.
        output: the datasets root.
        shots: what to draw, best in the order of cameras.

    Returns:
        Number of images drawn.
    """
    for shot in shots:
        image, path = render(seed, shot)
        # The formats without loss ignore the quality.
        image.save(output / path, quality=92)
    return len(shots)


def render(seed: int, shot: Shot) -> tuple[Image.Image, str]:
    """Return the image of a shot and its path relative to the datasets root."""
    domain = DOMAINS[shot.dataset]
    camera, scene = _stage(seed, shot.dataset, shot.camera)
    rng = stream(seed, shot.dataset, "image", shot.number)
    if not shot.person:
        return _false_detection(rng, scene), shot.path
    person = sample_person(stream(seed, shot.dataset, "person", shot.person), domain.wardrobe)
    image = picture(rng, person, camera, domain, scene)
    degrees = round(abs(np.degrees(camera.yaw)) / 45) * 45 % 360
    return image, shot.path.format(yaw=degrees)


def _false_detection(rng: np.random.Generator, scene: np.ndarray) -> Image.Image:
    top, left = int(rng.integers(scene.shape[0] - 360)), int(rng.integers(scene.shape[1] - 180))
    part = scene[top : top + 360, left : left + 180]
    return Image.fromarray(part).resize((64, 128), Image.Resampling.BOX)
