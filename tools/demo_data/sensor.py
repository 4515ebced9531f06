"""From linear light to the stored picture: optics, response, noise and compression."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from demo_data.camera import Camera
from demo_data.tube import Array


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
