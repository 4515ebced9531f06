"""The loss of a memory's classes, domain by domain, against a loop over them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metabin_plugin.losses import memory_loss
from tests.losses import oracle

IDENTITIES = torch.tensor([0, 0, 1, 3, 4, 3, 5])
DOMAINS = torch.tensor([0, 0, 0, 1, 1, 1, 2])
# Rows 2 and 6 are of people that the batch does not show; 5 and 7 are not known yet.
OF_ROWS = torch.tensor([0, 0, 0, 1, 1, -1, 1, -1])


def batch() -> tuple[Tensor, Tensor]:
    features, *_ = oracle.random_batch((7,))
    memory = torch.randn(8, 6, generator=torch.Generator().manual_seed(3)).double()
    return features, memory


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / ((a @ a) * (b @ b)) ** 0.5


def loop(features: Tensor, memory: Tensor, temperature: float) -> Tensor:
    terms = []
    for i, row in enumerate(features):
        right = int(IDENTITIES[i])
        if OF_ROWS[right] < 0:
            continue
        scores = {
            k: cosine(row, memory[k]) / temperature
            for k in range(len(memory))
            if OF_ROWS[k] == DOMAINS[i]
        }
        terms.append(torch.log(sum(torch.exp(score) for score in scores.values())) - scores[right])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_equals_the_loop(temperature: float) -> None:
    features, memory = batch()
    expected = loop(features, memory, temperature)
    actual = memory_loss(features, IDENTITIES, DOMAINS, memory, OF_ROWS, temperature)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, features)[0] for loss in (actual, expected)),
        rtol=1e-9,
        atol=1e-14,
    )


def test_other_domains_and_unknown_rows_are_no_classes() -> None:
    features, memory = batch()
    found = []
    for factor in (1.0, -1.0):
        changed = memory.clone()
        changed[[5, 7]] *= factor
        loss = memory_loss(features[:3], IDENTITIES[:3], DOMAINS[:3], changed, OF_ROWS)
        changed[3:5] *= factor
        found += [
            loss,
            memory_loss(features[:3], IDENTITIES[:3], DOMAINS[:3], changed, OF_ROWS),
        ]
    assert all(torch.equal(loss, found[0]) for loss in found)


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_is_twice_differentiable(check) -> None:
    features, memory = batch()
    assert check(lambda x: memory_loss(x, IDENTITIES, DOMAINS, memory, OF_ROWS, 1.0), features)


def test_an_empty_memory_gives_zero_with_a_gradient() -> None:
    features, memory = batch()
    unknown = torch.full_like(OF_ROWS, -1)
    memory = torch.zeros_like(memory).requires_grad_()
    loss = memory_loss(features, IDENTITIES, DOMAINS, memory, unknown)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))
    assert memory.grad is None


def test_one_class_alone_is_right() -> None:
    rows = torch.ones(2, 3)
    one = torch.tensor([0, 0])
    assert memory_loss(rows, one, one, torch.ones(1, 3), one[:1]).item() == pytest.approx(0)


def test_half_precision_gives_a_float32_loss() -> None:
    features, memory = batch()
    half = features.bfloat16()
    expected = memory_loss(half.double(), IDENTITIES, DOMAINS, memory, OF_ROWS).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = memory_loss(half, IDENTITIES, DOMAINS, memory.float(), OF_ROWS)
    assert loss.dtype == torch.float32 and math.isfinite(expected)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_refuses_what_does_not_fit() -> None:
    features, memory = batch()
    with pytest.raises(ValueError, match="one entry of domains per sample"):
        memory_loss(features, IDENTITIES, DOMAINS[:2], memory, OF_ROWS)
    with pytest.raises(ValueError, match="one entry of memory_domains per sample"):
        memory_loss(features, IDENTITIES, DOMAINS, memory, OF_ROWS[:2])
