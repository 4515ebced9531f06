"""Networks whose every layer matters: norms with random affine maps and running statistics."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


def randomize(network: nn.Module, seed: int = 3) -> nn.Module:
    """Give the norms of a network random values; the network, in evaluation mode."""
    torch.manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


def save(content: object, path: Path) -> str:
    """Save by ``torch.save``; the path as text."""
    torch.save(content, path)
    return str(path)


def in_order(state: dict[str, Tensor], modules: list[str]) -> dict[str, Tensor]:
    """The values of a state dict under other modules' names, given in the same order."""
    own = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    table = dict(zip(own, modules, strict=True))
    return {
        f"{table[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
        for name, value in state.items()
    }
