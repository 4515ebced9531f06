"""Losses written as loops over anchors, for any features whose distances are not zero."""

from __future__ import annotations

import torch
from torch import Tensor


def random_batch(
    counts: tuple[int, ...], identities: int = 2, width: int = 6, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, identities, domains with `counts[k]` samples of domain k, in mixed order."""
    generator = torch.Generator().manual_seed(seed)
    domains = torch.tensor([k for k, count in enumerate(counts) for _ in range(count)])
    labels = torch.tensor(
        [100 * k + i % identities for k, n in enumerate(counts) for i in range(n)]
    )
    order = torch.randperm(len(domains), generator=generator)
    features = torch.randn(len(domains), width, generator=generator, dtype=torch.float64) + 0.3
    return features.requires_grad_(), labels[order], domains[order]


def distance(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).sum() ** 0.5


def triplet(features: Tensor, identities: Tensor, margin: float) -> Tensor:
    terms = []
    for i, anchor in enumerate(features):
        others = [j for j in range(len(features)) if j != i]
        same = [distance(anchor, features[j]) for j in others if identities[j] == identities[i]]
        other = [distance(anchor, features[j]) for j in others if identities[j] != identities[i]]
        if other:
            positive = max(same) if same else torch.tensor(1e-6, dtype=features.dtype)
            terms.append(torch.relu(positive - min(other) + margin))
    return torch.stack(terms).mean()


def shuffle(features: Tensor, identities: Tensor, domains: Tensor) -> Tensor:
    terms = []
    for i, anchor in enumerate(features):
        inter, intra = [torch.tensor(1e-6, dtype=features.dtype)], []
        for j, sample in enumerate(features):
            if domains[j] != domains[i]:
                inter.append(distance(anchor, sample))
            elif identities[j] != identities[i]:
                intra.append(distance(anchor, sample))
        if intra:
            terms.append(torch.log1p(torch.exp(max(inter) - min(intra))))
    return torch.stack(terms).mean()


def scatter_cosines(features: Tensor, domains: Tensor) -> dict[int, list[Tensor]]:
    """Cosine of every sample to the centroid of its domain, by domain."""
    rows = [row / (row @ row) ** 0.5 for row in features]
    cosines: dict[int, list[Tensor]] = {}
    for domain in sorted(set(domains.tolist())):
        own = [row for row, label in zip(rows, domains.tolist(), strict=True) if label == domain]
        centroid = torch.stack(own).mean(0)
        length = (centroid @ centroid) ** 0.5
        cosines[domain] = [row @ centroid / length for row in own]
    return cosines


def smoothed_cross_entropy(logits: Tensor, identities: Tensor, epsilon: float) -> Tensor:
    losses = []
    for row, identity in zip(logits, identities.tolist(), strict=True):
        total = torch.log(sum(torch.exp(value) for value in row))
        terms = []
        for k, value in enumerate(row):
            target = 1 - epsilon if k == identity else epsilon / (len(row) - 1)
            terms.append(target * (total - value))
        losses.append(sum(terms))
    return torch.stack(losses).mean()
