"""Cameras: fixed view, light, colour response and defects, drawn from the ranges of a domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo_data.domains import Domain, Span
from demo_data.tube import Light


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
