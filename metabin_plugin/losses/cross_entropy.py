"""Identity classification with label smoothing (paper Eq. 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.losses.distance import check_rows
from metabin_plugin.precision import at_least_float32


def cross_entropy_loss(logits: Tensor, identities: Tensor, epsilon: float = 0.1) -> Tensor:
    """Cross-entropy against smoothed identity labels (Eq. 2).

    The right class has probability `1 - epsilon`, each of the `K - 1` wrong ones
    `epsilon / (K - 1)`. As in the authors' code, and unlike Eq. 2, the mean is over the samples
    whose loss is not exactly zero, which makes a difference only where `epsilon` is 0.

    Args:
        logits: classifier outputs (N, K).
        identities: class index of each sample (N,), in [0, K).
        epsilon: smoothing, in [0, 1).

    Returns:
        Scalar, in float32 at least.

    Raises:
        ValueError: shapes do not fit together.
    """
    check_rows("cross_entropy_loss", logits, identities=identities)
    log_probabilities = F.log_softmax(at_least_float32(logits), dim=1)
    right = log_probabilities.gather(1, identities[:, None]).squeeze(1)
    wrong = log_probabilities.sum(dim=1) - right
    # With one class there is no wrong one to share the smoothing.
    share = epsilon / max(logits.shape[1] - 1, 1)
    losses = -(1 - epsilon) * right - share * wrong
    return losses.sum() / losses.count_nonzero().clamp_min(1)
