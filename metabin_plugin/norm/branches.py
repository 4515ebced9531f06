"""Parallel convolutions of one input, summed: they are one convolution.

Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, section 3.3. In evaluation
each branch ends in a constant affine map per channel, which its weights take in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Branch:
    """``scale * (weight convolved with x + bias) + shift``.

    Attributes:
        weight: (C, C_in / groups, k, k), k odd; padded so that with stride 1 the map keeps its
            size.
        scale: (C,).
        shift: (C,).
        bias: (C,), or None for none.
    """

    weight: Tensor
    scale: Tensor
    shift: Tensor
    bias: Tensor | None = None


def identity_weight(channels: int, groups: int) -> Tensor:
    """Weight (C, C / groups, 1, 1), float64, of a convolution that leaves its input as it is.

    Args:
        channels: their number C, a multiple of ``groups``.
        groups: of the convolution.
    """
    return torch.eye(channels // groups, dtype=torch.float64).repeat(groups, 1)[:, :, None, None]


def merge_branches(branches: Sequence[Branch]) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of the one convolution that computes the sum of all branches.

    Args:
        branches: of the same stride, groups and channels.

    Returns:
        Weight (C, C_in / groups, k, k), k being that of the largest branch; and bias (C,).
    """
    size = max(branch.weight.shape[-1] for branch in branches)
    weights, biases = [], []
    for branch in branches:
        margin = (size - branch.weight.shape[-1]) // 2
        weight = functional.pad(branch.weight, [margin] * 4)
        weights.append(weight * branch.scale.double()[:, None, None, None])
        bias = branch.shift.double()
        if branch.bias is not None:
            bias = bias + branch.scale.double() * branch.bias
        biases.append(bias)
    return torch.stack(weights).sum(0), torch.stack(biases).sum(0)
