"""The memory bank: one classifier for each identity of all source domains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabin_plugin.precision import at_least_float32, product


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
