"""The nine domains: how each looks, before any camera is drawn.

The values describe what the real datasets show: campus in summer or winter, street, airport,
underground, movies. They were set by looking at pictures, never at training results.
"""

from __future__ import annotations

from dataclasses import dataclass

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
