"""Table of what a plan holds."""

from __future__ import annotations

from collections.abc import Sequence

from demo_data.layouts import Shot


def table(shots: Sequence[Shot]) -> str:
    """Return one line per dataset: persons, images and cameras.

    Args:
        shots: the images of the benchmark; false detections count as images only.
    """
    lines = [f"{'dataset':<12}{'identities':>12}{'images':>9}{'cameras':>9}"]
    for name in dict.fromkeys(shot.dataset for shot in shots):
        own = [shot for shot in shots if shot.dataset == name]
        people = {shot.person for shot in own if shot.person}
        cameras = {shot.camera for shot in own}
        lines.append(f"{name:<12}{len(people):>12}{len(own):>9}{len(cameras):>9}")
    lines.append(f"{'sum':<12}{'':>12}{len(shots):>9}")
    return "\n".join(lines)
