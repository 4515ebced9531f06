"""Kinds of augmentation, from torchvision; random numbers are from PyTorch's CPU generator alone.

They are strong on purpose: what becomes unrecognizable is dropped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.transforms import v2


def _crop(height: int, width: int, _fill: list[float]) -> nn.Module:
    shape = width / height
    return v2.RandomResizedCrop((height, width), scale=(0.4, 1), ratio=(0.75 * shape, shape / 0.75))


def _affine(_height: int, _width: int, fill: list[float]) -> nn.Module:
    return v2.RandomAffine(
        degrees=10,
        translate=(0.1, 0.1),
        scale=(0.8, 1.2),
        shear=5,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=fill,
    )


def _colour(_height: int, _width: int, _fill: list[float]) -> nn.Module:
    return v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)


def _grey(_height: int, _width: int, _fill: list[float]) -> nn.Module:
    return v2.Grayscale(num_output_channels=3)


def _blur(_height: int, _width: int, _fill: list[float]) -> nn.Module:
    return v2.GaussianBlur(kernel_size=9, sigma=(0.5, 2))


def _erase(_height: int, _width: int, fill: list[float]) -> nn.Module:
    return v2.RandomErasing(p=1, scale=(0.1, 0.4), value=fill)


# Names in AUGMINING.AUGMENTATIONS.
AUGMENTATIONS: dict[str, Callable[[int, int, list[float]], nn.Module]] = {
    "crop": _crop,
    "affine": _affine,
    "colour": _colour,
    "grey": _grey,
    "blur": _blur,
    "erase": _erase,
}


def augmented_copies(images: Tensor, names: Sequence[str], fill: Sequence[float]) -> Tensor:
    """One copy of each image for each kind of augmentation, each with random numbers of its own.

    Args:
        images: (N, 3, H, W), values in 0 to 255.
        names: K of ``AUGMENTATIONS``.
        fill: red, green and blue, 0 to 255, of what lies outside an image or is erased.

    Returns:
        Copies (N, K, 3, H, W), values in 0 to 255.
    """
    height, width = images.shape[-2:]
    kinds = [AUGMENTATIONS[name](height, width, [value / 255 for value in fill]) for name in names]
    # torchvision takes floating-point images to have values in 0 to 1. A blur is a convolution,
    # which autocast would compute in half precision.
    with torch.autocast(images.device.type, enabled=False):
        copies = [torch.stack([kind(image) for kind in kinds]) for image in images / 255]
    return torch.stack(copies) * 255


def classify(logits: Tensor, identities: Tensor) -> tuple[Tensor, Tensor]:
    """How well a classifier knows the right identities.

    Args:
        logits: class scores (N, C).
        identities: right classes (N,).

    Returns:
        Log-probabilities of the right identities (N,), in float32 at least, and their ranks (N,)
        among all identities, 1 for the most probable; among equals it is the last.
    """
    # Probabilities themselves would underflow where images are hardest.
    logits = logits if logits.dtype == torch.float64 else logits.float()
    right = logits.gather(1, identities[:, None])
    return (right - logits.logsumexp(1, keepdim=True))[:, 0], (logits >= right).sum(1)


def hardest(log_probabilities: Tensor, fraction: float) -> Tensor:
    """The images whose right identity is least probable.

    Args:
        log_probabilities: of the right identities (N,).
        fraction: share of the images, in [0, 1].

    Returns:
        Their positions, hardest first; among equals the first image is first.
    """
    count = round(fraction * len(log_probabilities))
    return log_probabilities.argsort(stable=True)[:count]


def select_copies(originals: Tensor, copies: Tensor, ranks: Tensor, max_rank: int) -> Tensor:
    """The hardest of each image and those of its copies that are still recognized.

    Args:
        originals: log-probabilities of the right identities of N images (N,).
        copies: the same of their K copies (N, K).
        ranks: ranks of the right identities of the copies (N, K).
        max_rank: the highest rank at which a copy counts as recognized; others are excessively
            augmented.

    Returns:
        For each image the position of the copy (N,), or -1 where the image itself is the hardest
        or as hard as the hardest copy.
    """
    recognized = copies.masked_fill(ranks > max_rank, torch.inf)
    return torch.cat([originals[:, None], recognized], dim=1).argmin(1) - 1
