from __future__ import annotations

import pytest
import torch

from metabin_plugin.losses import triplet_loss
from tests.losses import oracle


@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0])
@pytest.mark.parametrize(("counts", "identities"), [((6, 6), 2), ((5, 4, 1), 3)])
def test_equals_the_loop(counts: tuple[int, ...], identities: int, margin: float) -> None:
    features, labels, _ = oracle.random_batch(counts, identities)
    actual = triplet_loss(features, labels, margin)
    expected = oracle.triplet(features, labels, margin)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, features)[0] for loss in (actual, expected)),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_is_twice_differentiable(check) -> None:
    features, labels, _ = oracle.random_batch((3, 3), width=3)
    assert check(lambda x: triplet_loss(x, labels, 2.0), features)


def test_equally_hard_samples_share_the_gradient_evenly() -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [5.0, 5.0]], requires_grad=True)
    labels = torch.tensor([0, 1, 1, 2])
    (gradient,) = torch.autograd.grad(triplet_loss(features, labels, 100.0), features)
    torch.testing.assert_close(gradient[1], gradient[2].flip(0))
    torch.testing.assert_close(gradient[0, 0], gradient[0, 1])


def test_one_identity_gives_a_differentiable_zero() -> None:
    features, _, _ = oracle.random_batch((4,))
    loss = triplet_loss(features, torch.zeros(4, dtype=torch.long), 0.3)
    loss.backward()
    assert loss == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_a_lone_identity_is_its_own_positive() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    loss = triplet_loss(features, torch.tensor([0, 1]), 1.5)
    assert loss.item() == pytest.approx(0.5 + 1e-6, rel=1e-12)


def test_half_precision_features_give_a_float32_loss() -> None:
    features, labels, _ = oracle.random_batch((6, 6))
    half = features.detach().half().requires_grad_()
    loss = triplet_loss(half, labels, 0.3)
    assert loss.dtype == torch.float32
    expected = oracle.triplet(half.detach().double(), labels, 0.3)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.autograd.grad(loss, half)[0].dtype == torch.float16


def test_refuses_shapes_that_do_not_fit() -> None:
    features, labels, _ = oracle.random_batch((4, 4))
    with pytest.raises(ValueError, match="one entry of identities per sample"):
        triplet_loss(features, labels[:-1], 0.3)
    with pytest.raises(ValueError, match="one entry of identities per sample"):
        triplet_loss(features, labels[:, None], 0.3)
    with pytest.raises(ValueError, match="triplet_loss needs a matrix"):
        triplet_loss(features[0], labels, 0.3)
