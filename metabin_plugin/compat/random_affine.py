"""``T.RandomAffine(resample=, fillcolor=)``: torchvision dropped both names in 0.15."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any


def _random_affine(*, resample: bool = False, fillcolor: int = 0, **kwargs: Any) -> Any:
    from torchvision import transforms

    # fastreid's only call has resample=False, Pillow's number 0: nearest neighbour.
    return transforms.RandomAffine(
        interpolation=transforms.InterpolationMode.NEAREST, fill=fillcolor, **kwargs
    )


def repair_random_affine() -> None:
    """``INPUT.AFFINE`` fails in ``build_transforms``, which uses torchvision's former names.

    That module gets torchvision's transforms under a namespace of its own, with this one adapted.
    """
    from fastreid.data.transforms import build
    from torchvision import transforms

    current = "resample" not in inspect.signature(transforms.RandomAffine).parameters
    if current and build.T is transforms:
        build.T = SimpleNamespace(**{**vars(transforms), "RandomAffine": _random_affine})
