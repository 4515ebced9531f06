"""DIMN's memory bank against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dimn.losses import MemoryBank


def units(count: int, seed: int, features: int = 4) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, features, generator=random, dtype=torch.float64)
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def memory(rate: float = 0.5, identities: int = 6) -> MemoryBank:
    return MemoryBank(identities, 4, rate).double()


class Loops:
    """The memory as a dictionary of lists."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.rows: dict[int, list[float]] = {}

    def update(self, identities: list[int], generated: list[list[float]]) -> None:
        for identity in set(identities):
            mine = [
                row for label, row in zip(identities, generated, strict=True) if label == identity
            ]
            row = [sum(values) / len(mine) for values in zip(*mine, strict=True)]
            if identity in self.rows:
                pairs = zip(self.rows[identity], row, strict=True)
                row = [(1 - self.rate) * old + self.rate * new for old, new in pairs]
            length = math.sqrt(sum(value**2 for value in row))
            self.rows[identity] = [value / length for value in row]


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 1.0])
def test_the_running_average(rate: float) -> None:
    bank, loops = memory(rate), Loops(rate)
    # The second time 3 comes from two processes.
    for seed, identities in enumerate([[0, 3, 5], [3, 1, 3], [5, 0, 3]]):
        generated = units(3, seed)
        bank.update(torch.tensor(identities), generated)
        loops.update(identities, generated.tolist())
        assert bank.known.nonzero().flatten().tolist() == sorted(loops.rows)
        for identity, row in loops.rows.items():
            assert bank.classifiers[identity].tolist() == pytest.approx(row, rel=1e-12)
    assert not bank.classifiers[[2, 4]].any()


def test_logits_are_products_with_generated_or_else_remembered_classifiers() -> None:
    bank = memory()
    bank.update(torch.tensor([0, 3, 4]), units(3, 0))
    features, identities, generated = 5 * units(2, 1), [5, 3], units(2, 2)
    found = bank.logits(features, torch.tensor(identities), generated)
    for probe in range(2):
        for identity in range(6):
            expected = -math.inf
            if bank.known[identity]:
                expected = float(features[probe] @ bank.classifiers[identity])
            if identity in identities:
                expected = float(features[probe] @ generated[identities.index(identity)])
            assert found[probe, identity].item() == pytest.approx(expected, rel=1e-12)
    assert found.isinf().sum() == 2 * 2


def test_the_gradient_of_logits() -> None:
    bank = memory()
    bank.update(torch.arange(6), units(6, 0))
    features, generated = units(3, 1).requires_grad_(), units(2, 2).requires_grad_()
    identities = torch.tensor([1, 4])
    assert torch.autograd.gradcheck(
        lambda f, g: bank.logits(f, identities, g), (features, generated)
    )
    assert torch.autograd.gradgradcheck(
        lambda f, g: bank.logits(f, identities, g), (features, generated)
    )


def test_half_precision_is_widened() -> None:
    bank = MemoryBank(6, 4, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        found = bank.logits(units(3, 1).bfloat16(), torch.tensor([1]), units(1, 2).float())
    exact = units(3, 1).bfloat16().float() @ units(1, 2).float().t()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[:, [1]], exact, rtol=1e-6, atol=0)


def test_it_is_state_and_no_parameter() -> None:
    bank = memory()
    bank.update(torch.tensor([2]), units(1, 0).requires_grad_())
    assert list(bank.parameters()) == []
    assert not bank.classifiers.requires_grad
    other = memory()
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.classifiers, bank.classifiers)
    assert other.known.tolist() == [False, False, True, False, False, False]
