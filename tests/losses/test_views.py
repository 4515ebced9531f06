"""Losses of two views, of prototypes and of a memory, against loops over pairs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metabin_plugin.losses import (
    alignment_loss,
    prototype_uniformity_loss,
    reciprocal_similarity,
    uniformity_loss,
)
from tests.losses import oracle

Loss = Callable[..., Tensor]


def unit(row: Tensor) -> Tensor:
    return row / (row @ row) ** 0.5


def squared(a: Tensor, b: Tensor) -> Tensor:
    return ((unit(a) - unit(b)) ** 2).sum()


def same_value_and_gradient(actual: Tensor, expected: Tensor, features: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, features)[0] for loss in (actual, expected)),
        rtol=1e-9,
        atol=1e-14,
    )


def two_views(counts: tuple[int, ...], width: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features of both views as halves of one leaf, identities and domains."""
    features, identities, domains = oracle.random_batch(counts, width=width)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(5)).double()
    both = torch.cat([features, features + 0.8 * noise]).detach().requires_grad_()
    return both, identities, domains, torch.tensor(len(features))


def neighbourhoods(rows: list[Tensor], neighbours: int) -> list[set[int]]:
    """By brute force: those that are each among the other's nearest."""
    near = []
    for row in rows:
        order = sorted(range(len(rows)), key=lambda j: -float(unit(row) @ unit(rows[j])))
        near.append(set(order[:neighbours]))
    return [{j for j in near[i] if i in near[j]} for i in range(len(rows))]


@pytest.mark.parametrize("neighbours", [1, 3, 10, 100])
def test_similarity_is_that_of_the_sets(neighbours: int) -> None:
    both, *_, size = two_views((4, 3, 3))
    sets = neighbourhoods([*both.detach()], neighbours)
    found = reciprocal_similarity(*both.split(int(size)), neighbours)
    assert found.shape == (size, size) and not found.requires_grad
    for i in range(size):
        for j in range(size):
            one, other = sets[i], sets[int(size) + j]
            assert found[i, j].item() == pytest.approx(len(one & other) / len(one | other))


def test_similarity_of_copies_is_one_and_of_strangers_zero() -> None:
    rows = torch.eye(6)
    near = rows + 0.01 * torch.ones(6, 6)
    found = reciprocal_similarity(rows, near, neighbours=2)
    torch.testing.assert_close(found, torch.eye(6))
    # More copies than neighbours, so that a sample may miss itself.
    copies = reciprocal_similarity(torch.ones(5, 3), torch.ones(5, 3), neighbours=2)
    assert ((copies >= 0) & (copies <= 1)).all()


@pytest.mark.parametrize("is_weighted", [True, False])
def test_alignment_equals_the_loop(is_weighted: bool) -> None:
    both, identities, _, size = two_views((4, 3, 3))
    weak, strong = both.split(int(size))
    weights = reciprocal_similarity(strong, weak, 3) if is_weighted else None
    total = torch.zeros((), dtype=torch.float64)
    share = 0.0
    for i in range(size):
        for j in range(size):
            if identities[i] == identities[j]:
                weight = 1.0 if weights is None else float(weights[i, j])
                total = total + weight * squared(strong[i], weak[j])
                share += weight
    actual = alignment_loss(strong, weak, identities, weights)
    same_value_and_gradient(actual, total / share, both)


def test_alignment_without_a_reliable_pair_is_zero_with_a_gradient() -> None:
    both, identities, _, size = two_views((4, 4))
    loss = alignment_loss(*both.split(int(size)), identities, torch.zeros(8, 8))
    loss.backward()
    assert loss.item() == 0 and torch.equal(both.grad, torch.zeros_like(both))


def test_uniformity_equals_the_loop() -> None:
    features, *_ = oracle.random_batch((4, 3))
    terms = [torch.exp(-3 * squared(features[i], features[j])) for i in range(7) for j in range(i)]
    expected = torch.log(torch.stack(terms).mean())
    same_value_and_gradient(uniformity_loss(features, 3), expected, features)


def test_uniformity_bounds() -> None:
    equal = torch.ones(5, 3, requires_grad=True)
    loss = uniformity_loss(equal)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert equal.grad.isfinite().all()
    opposite = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert uniformity_loss(opposite).item() == pytest.approx(-8)


def test_uniformity_of_one_sample_is_zero_with_a_gradient() -> None:
    one = torch.tensor([[1.0, 2.0]], requires_grad=True)
    loss = uniformity_loss(one)
    loss.backward()
    assert loss.item() == 0 and torch.equal(one.grad, torch.zeros_like(one))


def prototypes_of(identities: Tensor, domains: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows for identities numbered from 0, of which some domains have more than the batch shows."""
    numbers = {label: i for i, label in enumerate(sorted(set(identities.tolist())))}
    rows = torch.tensor([numbers[label] for label in identities.tolist()])
    known = len(numbers)
    of_domain = torch.full((known + 12,), -1)
    for row, domain in zip(rows.tolist(), domains.tolist(), strict=True):
        of_domain[row] = domain
    of_domain[known : known + 9] = torch.tensor([0, 0, 0, 0, 0, 1, 1, 0, 0])
    values = torch.randn(len(of_domain), 6, generator=torch.Generator().manual_seed(2)).double()
    return rows, values, of_domain


@pytest.mark.parametrize("counts", [(4, 3), (2, 1), (6, 3, 2)])
def test_prototype_uniformity_equals_the_loop(counts: tuple[int, ...]) -> None:
    features, identities, domains = oracle.random_batch(counts)
    rows, prototypes, of_domain = prototypes_of(identities, domains)
    terms = []
    for i, row in enumerate(features):
        others = [
            squared(row, prototype)
            for k, prototype in enumerate(prototypes)
            if of_domain[k] == domains[i] and k != rows[i]
        ]
        terms += [
            torch.exp(-2 * d) for d in sorted(others, key=lambda d: d.item())[: len(features)]
        ]
    expected = torch.log(torch.stack(terms).mean())
    actual = prototype_uniformity_loss(features, rows, domains, prototypes, of_domain)
    same_value_and_gradient(actual, expected, features)


def test_unknown_prototypes_of_all_give_zero_with_a_gradient() -> None:
    features, identities, domains = oracle.random_batch((4, 3))
    rows, prototypes, of_domain = prototypes_of(identities, domains)
    prototypes, of_domain = torch.zeros_like(prototypes), torch.full_like(of_domain, -1)
    loss = prototype_uniformity_loss(features, rows, domains, prototypes, of_domain)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_prototypes_get_no_gradient() -> None:
    features, identities, domains = oracle.random_batch((4, 3))
    rows, prototypes, of_domain = prototypes_of(identities, domains)
    prototypes.requires_grad_()
    prototype_uniformity_loss(features, rows, domains, prototypes, of_domain).backward()
    assert prototypes.grad is None and features.grad is not None


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_are_twice_differentiable(check: Loss) -> None:
    features, identities, domains = oracle.random_batch((3, 2), width=3)
    other = features.detach().flip(0) + 0.1
    weights = torch.rand(5, 5, generator=torch.Generator().manual_seed(0)).double()
    rows, prototypes, of_domain = prototypes_of(identities, domains)
    assert check(lambda x: alignment_loss(x, other, identities, weights), features)
    assert check(uniformity_loss, features)
    assert check(
        lambda x: prototype_uniformity_loss(x, rows, domains, prototypes[:, :3], of_domain),
        features,
    )


def test_half_precision_features_give_float32_losses() -> None:
    both, identities, domains, size = two_views((4, 4))
    rows, prototypes, of_domain = prototypes_of(identities, domains)

    def losses(values: Tensor) -> list[Tensor]:
        weak, strong = values.split(int(size))
        weights = reciprocal_similarity(strong, weak, 3)
        memory = prototypes.to(torch.promote_types(values.dtype, torch.float32))
        return [
            alignment_loss(strong, weak, identities, weights),
            uniformity_loss(weak),
            prototype_uniformity_loss(weak, rows, domains, memory, of_domain),
        ]

    half = (both * 100).bfloat16()
    expected = losses(half.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses(half)
    for loss, exact in zip(found, expected, strict=True):
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_refuse_what_does_not_fit() -> None:
    both, identities, domains, size = two_views((4, 4))
    weak, strong = both.split(int(size))
    rows, prototypes, of_domain = prototypes_of(identities, domains)
    with pytest.raises(ValueError, match=r"alignment_loss needs two views of one shape, got \(8"):
        alignment_loss(strong, weak[:4], identities)
    with pytest.raises(ValueError, match="one entry of identities per sample"):
        alignment_loss(strong, weak, identities[:4])
    with pytest.raises(ValueError, match="uniformity_loss needs a matrix"):
        uniformity_loss(weak[0])
    with pytest.raises(ValueError, match="at least 1 neighbour, got 0"):
        reciprocal_similarity(strong, weak, 0)
    with pytest.raises(ValueError, match="reciprocal_similarity needs a matrix"):
        reciprocal_similarity(strong, weak[0])
    with pytest.raises(ValueError, match="one entry of prototype_domains per sample"):
        prototype_uniformity_loss(weak, rows, domains, prototypes, of_domain[:2])
    assert math.isfinite(uniformity_loss(weak).item())
