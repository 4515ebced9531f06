"""DIMN's loss terms against loops over the plain formulas in float64, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dimn.losses import matching_loss, probability_triplet_loss, regularization_loss
from dimn.network import gallery_and_probes

INFINITY = float("inf")


def example(seed: int, probes: int = 7, identities: int = 5) -> tuple[Tensor, Tensor]:
    """Logits, one identity of which has no classifier, and the probes' identities."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(probes, identities, generator=random, dtype=torch.float64)
    logits[:, 0] = -INFINITY
    return logits, torch.randint(1, identities, (probes,), generator=random)


def probabilities(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("seed", range(3))
def test_matching_is_the_mean_cross_entropy(seed: int) -> None:
    logits, identities = example(seed)
    expected = 0.0
    for row, identity in zip(logits.tolist(), identities.tolist(), strict=True):
        expected -= math.log(probabilities(row)[identity]) / len(logits)
    assert matching_loss(logits, identities).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.8, 1.0])
def test_triplet_compares_the_right_with_the_largest_wrong_probability(margin: float) -> None:
    logits, identities = example(3, probes=20)
    expected, inactive = 0.0, 0
    for row, identity in zip(logits.tolist(), identities.tolist(), strict=True):
        shares = probabilities(row)
        wrong = max(share for other, share in enumerate(shares) if other != identity)
        term = max(0.0, margin - shares[identity] + wrong)
        expected += term / len(logits)
        inactive += term == 0
    found = probability_triplet_loss(logits, identities, margin)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    # Both sides of the hinge are looked at, except at 1, which only certainty reaches.
    assert 0 < inactive < 20 or margin == 1


def test_regularization_is_the_mean_over_identities_that_the_memory_knows() -> None:
    random = torch.Generator().manual_seed(0)
    generated = torch.randn(4, 6, generator=random, dtype=torch.float64)
    remembered = torch.randn(4, 6, generator=random, dtype=torch.float64)
    known = torch.tensor([True, False, True, True])
    expected = 0.0
    for row in (0, 2, 3):
        pairs = zip(generated[row].tolist(), remembered[row].tolist(), strict=True)
        expected += sum((new - old) ** 2 for new, old in pairs) / 3
    found = regularization_loss(generated, remembered, known)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_regularization_of_a_memory_that_knows_nobody_is_a_zero_in_the_graph() -> None:
    generated = torch.randn(3, 4, requires_grad=True)
    loss = regularization_loss(generated, torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(generated.grad, torch.zeros(3, 4))


def test_gradients() -> None:
    logits, identities = example(5)
    logits[:, 0] = -2.0
    logits.requires_grad_()
    generated = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    remembered, known = torch.randn(3, 4, dtype=torch.float64), torch.tensor([True, False, True])
    check = torch.autograd.gradcheck
    assert check(lambda x: matching_loss(x, identities), logits)
    assert check(lambda x: probability_triplet_loss(x, identities, 0.8), logits)
    assert check(lambda x: regularization_loss(x, remembered, known), generated)


def test_identities_without_a_classifier_get_no_gradient() -> None:
    logits, identities = example(1)
    logits.requires_grad_()
    loss = matching_loss(logits, identities) + probability_triplet_loss(logits, identities, 0.8)
    loss.backward()
    assert torch.equal(logits.grad[:, 0], torch.zeros(7, dtype=torch.float64))
    assert logits.grad.isfinite().all() and logits.grad.any()


def test_a_single_classifier_leaves_nothing_to_learn() -> None:
    logits = torch.tensor([[-INFINITY, 2.0]], requires_grad=True)
    assert matching_loss(logits, torch.tensor([1])).item() == 0
    assert probability_triplet_loss(logits, torch.tensor([1]), 0.8).item() == 0


@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0.01, 50))
def test_bounds(seed: int, margin: float, scale: float) -> None:
    logits, identities = example(seed)
    triplet = probability_triplet_loss(scale * logits, identities, margin).item()
    assert 0 <= triplet <= 1 + margin + 1e-12
    assert matching_loss(scale * logits, identities).item() >= 0


@pytest.mark.parametrize("loss", [matching_loss, lambda x, y: probability_triplet_loss(x, y, 0.8)])
@pytest.mark.parametrize("shape", [(0, 4), (3, 4)])
def test_shapes_that_do_not_fit_are_refused(loss: object, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="one "):
        loss(torch.zeros(shape), torch.zeros(shape[0] - 1 if shape[0] else 0).long())  # type: ignore[operator]


def test_the_first_image_of_an_identity_is_its_gallery_image() -> None:
    gallery, probes = gallery_and_probes(torch.tensor([7, 7, 2, 7, 2, 5]))
    assert gallery.tolist() == [2, 5, 0]
    assert probes.tolist() == [1, 3, 4]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_every_image_has_one_role(identities: list[int]) -> None:
    gallery, probes = gallery_and_probes(torch.tensor(identities))
    assert sorted([*gallery.tolist(), *probes.tolist()]) == list(range(len(identities)))
    assert gallery.tolist() == [identities.index(label) for label in sorted(set(identities))]
    assert probes.tolist() == sorted(probes.tolist())
