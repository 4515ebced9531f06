"""Parallel convolutions, merged, compute the sum of their branches."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from metabin_plugin.deploy.repvgg import Branch, identity_weight, merge_branches


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_the_merged_convolution_is_the_sum_of_the_branches(stride: int, groups: int) -> None:
    torch.manual_seed(0)
    x = random(2, 6, 9, 7)
    branches = [
        Branch(random(6, 6 // groups, size, size), random(6), random(6), bias)
        for size, bias in [(3, None), (1, random(6)), (5, random(6))]
    ]
    expected = sum(
        branch.scale[:, None, None]
        * functional.conv2d(x, branch.weight, branch.bias, stride, padding, 1, groups)
        + branch.shift[:, None, None]
        for branch, padding in zip(branches, (1, 0, 2), strict=True)
    )
    weight, bias = merge_branches(branches)
    assert weight.shape == (6, 6 // groups, 5, 5)
    merged = functional.conv2d(x, weight, bias, stride, 2, 1, groups)
    torch.testing.assert_close(merged, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_the_identity_leaves_its_input_as_it_is(groups: int) -> None:
    x = random(2, 6, 4, 3)
    assert torch.equal(functional.conv2d(x, identity_weight(6, groups), groups=groups), x)


def test_branches_of_float32_are_merged_in_float64() -> None:
    ones = torch.ones(1)
    large = Branch(torch.full((1, 1, 1, 1), 2.0**24), ones, ones * 2**24)
    small = Branch(torch.ones(1, 1, 1, 1), ones, ones)
    weight, bias = merge_branches([large, small])
    assert weight.item() == bias.item() == 2**24 + 1
