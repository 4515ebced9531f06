from __future__ import annotations

import pytest
import torch

from metabin_plugin.losses import pairwise_distance
from tests.losses.oracle import distance, random_batch


def test_is_the_euclidean_distance() -> None:
    features, _, _ = random_batch((4, 3))
    features = features.detach()
    actual = pairwise_distance(features)
    for i in range(7):
        for j in range(7):
            expected = distance(features[i], features[j]) if i != j else 1e-6
            assert actual[i, j].item() == pytest.approx(float(expected), abs=1e-6, rel=1e-12)


def test_equal_features_are_at_the_floor_and_pull_nothing() -> None:
    features = torch.full((3, 4), 2.0, dtype=torch.float64, requires_grad=True)
    distances = pairwise_distance(features)
    assert distances.tolist() == [[1e-6] * 3] * 3
    distances.sum().backward()
    assert features.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_keep_float32_distances(dtype: torch.dtype) -> None:
    features = (torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
    actual = pairwise_distance(features)
    assert actual.dtype == torch.float32
    expected = torch.cdist(features.double(), features.double())
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(
        actual[off_diagonal].double(), expected[off_diagonal], rtol=1e-5, atol=0
    )


def test_autocast_does_not_narrow_the_products() -> None:
    features = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)) + 5
    plain = pairwise_distance(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pairwise_distance(features), plain)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (0, 4)])
def test_refuses_what_is_no_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="pairwise_distance needs a matrix"):
        pairwise_distance(torch.zeros(shape))
