from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from metabin_plugin.losses import cross_entropy_loss
from tests.losses import oracle


def batch(rows: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * 3
    return logits.requires_grad_(), torch.arange(rows) % classes


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("classes", [2, 7])
def test_equals_the_loop(epsilon: float, classes: int) -> None:
    logits, identities = batch(classes=classes)
    actual = cross_entropy_loss(logits, identities, epsilon)
    expected = oracle.smoothed_cross_entropy(logits, identities, epsilon)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, logits)[0] for loss in (actual, expected)),
        rtol=1e-10,
        atol=1e-14,
    )


def test_smoothing_is_shared_by_the_wrong_classes_only() -> None:
    logits, identities = batch()
    ours = cross_entropy_loss(logits, identities, epsilon=0.1)
    # PyTorch shares it with the right class too, so that K - 1 of K parts go to the wrong ones.
    theirs = F.cross_entropy(logits, identities, label_smoothing=0.1 * 5 / 4)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_rows_without_loss_are_left_out_of_the_mean() -> None:
    logits = torch.tensor([[1000.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = cross_entropy_loss(logits, torch.tensor([0, 1]), epsilon=0.0)
    assert loss.item() == pytest.approx(0.6931472)


def test_no_loss_at_all_is_a_differentiable_zero() -> None:
    logits = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    loss = cross_entropy_loss(logits, torch.tensor([0]), epsilon=0.0)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros(1, 2))


def test_one_class_has_nothing_to_learn() -> None:
    assert cross_entropy_loss(torch.ones(3, 1), torch.zeros(3, dtype=torch.long), 0.1) == 0


def test_half_precision_logits_give_a_float32_loss() -> None:
    logits, identities = batch()
    half = logits.detach().half()
    loss = cross_entropy_loss(half, identities, 0.1)
    assert loss.dtype == torch.float32
    expected = oracle.smoothed_cross_entropy(half.double(), identities, 0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_refuses_shapes_that_do_not_fit() -> None:
    logits, identities = batch()
    with pytest.raises(ValueError, match="one entry of identities per sample"):
        cross_entropy_loss(logits, identities[:2], 0.1)
    with pytest.raises(ValueError, match="cross_entropy_loss needs a matrix"):
        cross_entropy_loss(logits[0], identities, 0.1)
