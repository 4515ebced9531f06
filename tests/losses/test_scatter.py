from __future__ import annotations

import pytest
import torch

from metabin_plugin.losses import scatter_loss
from tests.losses import oracle


def mean(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(values).mean()


@pytest.mark.parametrize("counts", [(4, 4, 4), (6, 3, 1), (5,)])
@pytest.mark.parametrize("average", ["sample", "domain"])
def test_equals_the_loop(counts: tuple[int, ...], average: str) -> None:
    features, _, domains = oracle.random_batch(counts)
    cosines = oracle.scatter_cosines(features, domains)
    if average == "sample":
        expected = mean([cosine for own in cosines.values() for cosine in own])
    else:
        expected = mean([mean(own) for own in cosines.values()])
    actual = scatter_loss(features, domains, average)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, features)[0] for loss in (actual, expected)),
        rtol=1e-9,
        atol=1e-14,
    )


def test_the_averages_differ_only_for_unequal_counts() -> None:
    for counts, equal in (((4, 4), True), ((6, 2), False)):
        features, _, domains = oracle.random_batch(counts)
        by_sample = scatter_loss(features, domains)
        by_domain = scatter_loss(features, domains, average="domain")
        assert torch.isclose(by_sample, by_domain, rtol=1e-12, atol=0) == equal


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_is_twice_differentiable(check) -> None:
    features, _, domains = oracle.random_batch((3, 2), width=3)
    assert check(lambda x: scatter_loss(x, domains), features)


def test_rows_count_by_direction_only() -> None:
    features, _, domains = oracle.random_batch((4, 3))
    scales = torch.linspace(0.01, 30, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        scatter_loss(features * scales, domains), scatter_loss(features, domains)
    )


def test_bounds() -> None:
    domains = torch.zeros(2, dtype=torch.long)
    row = torch.tensor([1.0, 2.0])
    assert scatter_loss(torch.stack([row, 3 * row]), domains).item() == pytest.approx(1.0)
    opposite = torch.stack([row, -row]).requires_grad_()
    loss = scatter_loss(opposite, domains)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(opposite.grad).all()


def test_a_row_of_zeros_has_cosine_zero_and_a_finite_gradient() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = scatter_loss(features, torch.zeros(3, dtype=torch.long))
    loss.backward()
    assert loss.item() == pytest.approx(2 / 3)
    assert features.grad.abs().max() <= 1


@pytest.mark.parametrize("average", ["sample", "domain"])
def test_a_row_of_zeros_has_finite_second_derivatives(average: str) -> None:
    """Behind a ReLU it is the feature of an image that no channel responds to."""
    features, _, domains = oracle.random_batch((3, 2), width=3)
    features = features.detach()
    features[1] = 0
    hessian = torch.autograd.functional.hessian(
        lambda x: scatter_loss(x, domains, average), features
    )
    assert hessian.isfinite().all() and hessian.any()


def test_half_precision_features_give_a_float32_loss() -> None:
    features, _, domains = oracle.random_batch((4, 4))
    half = (features * 100).half()
    expected = scatter_loss(half.double(), domains).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = scatter_loss(half, domains)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_refuses_what_does_not_fit() -> None:
    features, _, domains = oracle.random_batch((4, 4))
    with pytest.raises(ValueError, match="one entry of domains per sample"):
        scatter_loss(features, domains[:3])
    with pytest.raises(ValueError, match="scatter_loss needs a matrix"):
        scatter_loss(features[:, 0], domains)
    with pytest.raises(ValueError, match="not by 'batch'"):
        scatter_loss(features, domains, average="batch")
