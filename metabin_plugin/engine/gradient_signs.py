"""Which way the gradient of Eq. 9 moves the gates, counted (paper, Fig. 5).

Eq. 9 subtracts the gradient from rho: a positive one moves its gate towards instance
normalization, a negative one towards batch normalization. The rest of the gates is not used by the
losses, or is in a layer without instance statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from metabin_plugin.meta.step import gradients_of

SIGNS = ("positive", "negative")

Tensors = dict[str, Tensor]


def sign_shares(gradients: Mapping[str, Tensor]) -> Tensor:
    """Shares of gates with a positive and with a negative gradient, in the order of ``SIGNS``.

    Args:
        gradients: gradients of the gates, by name.

    Returns:
        Two numbers in [0, 1] on the device, not yet read.
    """
    flat = torch.cat([gradient.detach().flatten() for gradient in gradients.values()])
    return torch.stack([flat > 0, flat < 0]).mean(1, dtype=torch.float32)


def sign_shares_by_loss(
    names: Collection[str],
    losses: Callable[[tuple[str, ...], Tensors], Tensors],
    gates: Mapping[str, Tensor],
    scale: float | Tensor,
    average: Callable[[Tensors], Tensors],
) -> dict[str, list[float]]:
    """``sign_shares`` of each loss alone: a forward and a backward pass more for each.

    The device is waited for once. PyTorch's random generators are afterwards as they were.

    Args:
        names: the losses.
        losses: computes those of the given names at the given gates.
        gates: rho, by name. Only their values are used.
        scale: factor on the losses during differentiation (mixed precision).
        average: mean over the processes of a gradient by name.

    Returns:
        Two numbers by loss.
    """
    leaves = {name: gate.detach().requires_grad_() for name, gate in gates.items()}
    device = next(iter(leaves.values())).device
    shares = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for name in names:
            gradients = gradients_of(losses((name,), leaves), leaves, scale)
            shares.append(sign_shares(average(gradients)))
    return dict(zip(names, torch.stack(shares).tolist(), strict=True))


def named_shares(name: str, shares: Collection[float]) -> dict[str, float]:
    """Shares by the names that they have in the log."""
    return {
        f"inner_gradient_{sign}/{name}": share for sign, share in zip(SIGNS, shares, strict=True)
    }
