"""Walking and standing poses as joint positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo_data.people import Person
from demo_data.tube import Array


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
