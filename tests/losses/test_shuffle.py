from __future__ import annotations

import math

import pytest
import torch

from metabin_plugin.losses import shuffle_loss
from tests.losses import oracle


@pytest.mark.parametrize("counts", [(4, 4, 4), (6, 3, 2), (5, 1, 4), (6,)])
def test_equals_the_loop(counts: tuple[int, ...]) -> None:
    features, labels, domains = oracle.random_batch(counts)
    actual = shuffle_loss(features, labels, domains)
    expected = oracle.shuffle(features, labels, domains)
    # With one domain the farthest candidate is the anchor itself, at a distance of about 1e-6.
    tolerance = 1e-7 if len(counts) == 1 else 1e-12
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, features)[0] for loss in (actual, expected)),
        rtol=1e-9,
        atol=tolerance,
    )


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_is_twice_differentiable(check) -> None:
    features, labels, domains = oracle.random_batch((3, 3), width=3)
    assert check(lambda x: shuffle_loss(x, labels, domains), features)


def test_same_identity_label_in_two_domains_is_still_another_domain() -> None:
    features, _, domains = oracle.random_batch((4, 4))
    labels = torch.tensor([0, 1] * 4)
    torch.testing.assert_close(
        shuffle_loss(features, labels, domains), oracle.shuffle(features, labels, domains)
    )


def test_large_gaps_do_not_overflow() -> None:
    features = torch.tensor([[0.0], [1.0], [1e4], [1e4 + 1]], requires_grad=True)
    labels, domains = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 1])
    loss = shuffle_loss(features, labels, domains)
    loss.backward()
    assert loss.item() == pytest.approx(1e4 - 0.5, rel=1e-3)
    assert torch.isfinite(features.grad).all()


def test_anchors_without_an_intra_domain_negative_are_left_out() -> None:
    features = torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    labels, domains = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1])
    gaps = (3 - 2, math.sqrt(13) - 2)
    expected = sum(math.log1p(math.exp(gap)) for gap in gaps) / 2
    assert shuffle_loss(features, labels, domains).item() == pytest.approx(expected, rel=1e-12)


def test_no_anchor_left_gives_a_differentiable_zero() -> None:
    features, _, domains = oracle.random_batch((3, 3))
    loss = shuffle_loss(features, domains, domains)
    loss.backward()
    assert loss == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_half_precision_features_give_a_float32_loss() -> None:
    features, labels, domains = oracle.random_batch((4, 4))
    assert shuffle_loss(features.half(), labels, domains).dtype == torch.float32


def test_refuses_shapes_that_do_not_fit() -> None:
    features, labels, domains = oracle.random_batch((4, 4))
    with pytest.raises(ValueError, match="one entry of domains per sample"):
        shuffle_loss(features, labels, domains[1:])
    with pytest.raises(ValueError, match="one entry of identities per sample"):
        shuffle_loss(features, labels[1:], domains)
    with pytest.raises(ValueError, match="shuffle_loss needs a matrix"):
        shuffle_loss(features[None], labels, domains)
