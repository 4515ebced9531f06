"""Cameras: fixed view, light, colour response and defects, drawn from the ranges of a domain."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from demo_data.domains import Domain, Span
from demo_data.tube import Array, Light


@dataclass(frozen=True)
class Camera:
    """One camera; the attributes have the meanings and units of ``Domain``.

    Attributes:
        gains: response of the three channels.
        mixing: colour matrix that sets saturation and cross-talk.
        exponent: tone curve from linear light to display values.
        vignette: relative loss of light in the corners.
    """

    scene: str
    yaw: float
    turn: float
    elevation: float
    distance: float
    roll: float
    light: Light
    exposure: float
    gains: NDArray[np.float32]
    mixing: NDArray[np.float32]
    contrast: float
    exponent: float
    black: float
    detail: float
    noise: float
    quality: int
    sharpen: float
    vignette: float
    motion: float


def draw_camera(rng: np.random.Generator, domain: Domain, index: int) -> Camera:
    """Draw a camera of a domain.

    Args:
        rng: the camera's random stream.
        domain: ranges of the domain.
        index: number of the camera, which spreads facing directions and scenes evenly.
    """

    def draw(span: Span) -> float:
        return float(rng.uniform(*span))

    warmth, tint, saturation = draw(domain.warmth), draw(domain.tint), draw(domain.saturation)
    gains = np.array([1 + warmth, 1 + tint - abs(warmth) * 0.1, 1 - warmth * 1.2], np.float32)
    return Camera(
        scene=domain.scenes[index % len(domain.scenes)],
        yaw=domain.yaws[index % len(domain.yaws)] + float(rng.normal(0, 0.2)),
        turn=domain.turn,
        elevation=draw(domain.elevation),
        distance=draw(domain.distance),
        roll=float(rng.normal(0, 0.03)),
        light=_light(rng, draw(domain.ambient)),
        exposure=draw(domain.exposure),
        gains=gains,
        mixing=_mixing(rng, saturation),
        contrast=draw(domain.contrast),
        exponent=float(rng.uniform(0.42, 0.52)),
        black=draw(domain.black),
        detail=draw(domain.detail),
        noise=draw(domain.noise),
        quality=int(draw(domain.quality)),
        sharpen=draw(domain.sharpen),
        vignette=float(rng.uniform(0, 0.25)),
        motion=float(rng.uniform(0, 1.6)),
    )


def _light(rng: np.random.Generator, ambient: float) -> Light:
    bearing, height = rng.uniform(-1.9, 1.9), rng.uniform(0.5, 1.1)
    x, z = np.sin(bearing) * np.cos(height), np.cos(bearing) * np.cos(height)
    return Light((float(x), float(np.sin(height)), float(z)), ambient)


def _mixing(rng: np.random.Generator, saturation: float) -> NDArray[np.float32]:
    grey = np.array([0.3, 0.59, 0.11])
    matrix = saturation * np.eye(3) + (1 - saturation) * grey
    leak = rng.normal(0, 0.02, (3, 3))
    leak -= leak.mean(1, keepdims=True)
    return (matrix + leak).astype(np.float32)


def expose(light: Array, camera: Camera, gain: float) -> Image.Image:
    """Return the display picture of linear light.

    Args:
        light: linear light of shape (height, width, 3).
        camera: the camera.
        gain: brightness of this moment relative to the camera's usual one.
    """
    height, width, _ = light.shape
    seen = light @ camera.mixing.T
    seen *= camera.gains * np.float32(camera.exposure * gain) * _vignette(width, height, camera)
    seen += np.float32(camera.black)
    shown = np.power(np.clip(seen, 0, 1.3), np.float32(camera.exponent))
    shown = (shown - np.float32(0.45)) * np.float32(camera.contrast) + np.float32(0.45)
    return Image.fromarray((np.clip(shown, 0, 1) * 255).astype(np.uint8))


def _vignette(width: int, height: int, camera: Camera) -> Array:
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return (1 - np.float32(camera.vignette * 0.5) * (x * x + y * y))[..., None]


def record(
    image: Image.Image, camera: Camera, size: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    """Blur, sample, disturb and compress a picture as a video camera does.

    Args:
        image: the picture at drawing resolution.
        camera: the camera.
        size: width and height of the stored image.
        rng: the image's random stream.
    """
    if camera.motion > 0.4:
        image = image.filter(ImageFilter.BoxBlur((float(rng.uniform(0, camera.motion)), 0)))
    rows = max(24, round(camera.detail * rng.uniform(0.8, 1.15)))
    rows = min(rows, size[1])
    columns = max(10, round(rows * size[0] / size[1]))
    small = image.resize((columns, rows), Image.Resampling.BOX)
    if camera.sharpen > 0.05:
        small = small.filter(ImageFilter.UnsharpMask(1, int(120 * camera.sharpen), 2))
    small = _compress(_grain(small, camera, rng), camera.quality)
    return small.resize(size, Image.Resampling.BICUBIC)


def _grain(image: Image.Image, camera: Camera, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    shared = rng.standard_normal((*pixels.shape[:2], 1), np.float32)
    own = rng.standard_normal(pixels.shape, np.float32)
    # Shot noise: dark parts are noisier after the tone curve.
    level = camera.noise * 255 * (1.35 - pixels / 320)
    noisy = pixels + level * (np.float32(0.8) * shared + np.float32(0.5) * own)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _compress(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer, formats=["JPEG"]).convert("RGB")
