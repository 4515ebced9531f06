"""Which images of a mini-batch are hard, and which augmented copies take their place."""

from __future__ import annotations

import torch
from torch import Tensor


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
