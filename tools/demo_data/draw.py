"""Draw and store the images of a plan."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from demo_data.camera import Camera, draw_camera
from demo_data.compose import picture
from demo_data.domains import DOMAINS
from demo_data.layouts import Shot
from demo_data.people import sample_person
from demo_data.scenes import draw_scene
from demo_data.seeds import stream


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
