"""The three losses of the mapping network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabin_plugin.losses import check_rows, mean_over_anchors
from metabin_plugin.precision import at_least_float32, product


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


class MemoryBank(nn.Module):
    """Running average of the classifiers that were generated for each identity.

    It is state, not parameters: no gradient reaches it, and checkpoints hold it.

    Args:
        num_identities: number of identities K.
        num_features: length D of a classifier.
        rate: alpha, share of a new classifier in the average, in [0, 1].

    Attributes:
        classifiers: unit rows (K, D); zeros for an identity not met yet.
        known: which identities were met, boolean (K,).
    """

    classifiers: Tensor
    known: Tensor

    def __init__(self, num_identities: int, num_features: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("classifiers", torch.zeros(num_identities, num_features))
        self.register_buffer("known", torch.zeros(num_identities, dtype=torch.bool))

    @torch.no_grad()
    def update(self, identities: Tensor, generated: Tensor) -> None:
        """Average classifiers into the memory, and scale them to unit length again.

        A row becomes the direction of ``(1 - rate) * row + rate * generated``; that of an identity
        not met before the direction of ``generated``. An identity that is given several times, by
        several processes, counts with the mean of its classifiers.

        Args:
            identities: identity of each classifier (G,), in [0, K).
            generated: unit classifiers (G, D).
        """
        identities, group = identities.unique(return_inverse=True)
        counts = torch.bincount(group, minlength=len(identities))[:, None]
        sums = self.classifiers.new_zeros(len(identities), self.classifiers.shape[1])
        new = sums.index_add_(0, group, generated.to(sums.dtype)) / counts
        rates = torch.where(self.known[identities], self.rate, 1.0)[:, None].to(new.dtype)
        averages = torch.lerp(self.classifiers[identities], new, rates)
        self.classifiers[identities] = F.normalize(averages, dim=1)
        self.known[identities] = True

    def logits(self, features: Tensor, identities: Tensor, generated: Tensor) -> Tensor:
        """Products of features with all known classifiers, some of which were just generated.

        Args:
            features: features of probes (P, D).
            identities: identity of each generated classifier (G,), no two equal.
            generated: they take the place of the memory's (G, D).

        Returns:
            Logits (P, K), in float32 at least; minus infinity for identities without a classifier.
            Differentiable with respect to ``features`` and ``generated``.
        """
        features, generated = at_least_float32(features), at_least_float32(generated)
        remembered = product(features, self.classifiers.t().to(features.dtype))
        remembered = remembered.masked_fill(~self.known, float("-inf"))
        return remembered.index_copy(1, identities, product(features, generated.t()))
