"""The three losses of the mapping network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from metabin_plugin.losses import check_rows, mean_over_anchors
from metabin_plugin.precision import at_least_float32


def matching_loss(logits: Tensor, identities: Tensor) -> Tensor:
    """Cross-entropy of probes among the classifiers of all remembered identities.

    Args:
        logits: products of probes with classifiers (P, K); minus infinity for an identity that
            has no classifier.
        identities: identity of each probe (P,), in [0, K); one with a classifier.

    Returns:
        Scalar, the mean over the probes.

    Raises:
        ValueError: shapes do not fit together, or there are no probes.
    """
    check_rows("matching_loss", logits, identities=identities)
    return F.cross_entropy(at_least_float32(logits), identities)


def probability_triplet_loss(logits: Tensor, identities: Tensor, margin: float) -> Tensor:
    """Push the probability of the right identity above the largest of the others.

    Mean over the probes of ``max(0, margin - p_right + max p_wrong)`` with ``p = softmax(logits)``.

    Args:
        logits: as in ``matching_loss``.
        identities: as in ``matching_loss``.
        margin: Delta, in [0, 1].

    Returns:
        Scalar in [0, 1 + margin].

    Raises:
        ValueError: shapes do not fit together, or there are no probes.
    """
    check_rows("probability_triplet_loss", logits, identities=identities)
    probabilities = at_least_float32(logits).softmax(dim=1)
    columns = identities[:, None]
    right = probabilities.gather(1, columns).squeeze(1)
    wrong = probabilities.scatter(1, columns, 0.0).amax(dim=1)
    return (margin - right + wrong).clamp_min(0).mean()


def regularization_loss(generated: Tensor, remembered: Tensor, known: Tensor) -> Tensor:
    """Keep generated classifiers near the remembered ones of the same identities.

    Args:
        generated: generated classifiers (G, D).
        remembered: classifiers in the memory before it takes these in (G, D).
        known: which identities the memory has a classifier of, boolean (G,).

    Returns:
        Scalar, the mean squared Euclidean distance over the known identities; a zero where the
        memory knows none.

    Raises:
        ValueError: shapes do not fit together, or there are no classifiers.
    """
    check_rows("regularization_loss", generated, known=known)
    squared = (at_least_float32(generated) - remembered).square().sum(dim=1)
    return mean_over_anchors(squared, known)
