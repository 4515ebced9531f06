"""Finding the gates (balancing parameters rho) of a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from metabin_plugin.norm.batch_instance_norm import BatchInstanceNorm2d

# The network and the thirds of its layers, from the image to the feature (Fig. 4).
WHOLE, THIRDS = "all", ("shallow", "middle", "deep")


def network_parts(layers: Sequence[str]) -> dict[str, list[str]]:
    """Layers of the whole network, and of its shallow, middle and deep third (paper, Fig. 4).

    Args:
        layers: names, from the image to the feature.

    Returns:
        Names by part. Where thirds cannot be equal, the first ones are a layer longer; those
        without a layer are left out.
    """
    thirds = zip(THIRDS, np.array_split(np.array(layers, dtype=object), len(THIRDS)), strict=True)
    parts = {part: names.tolist() for part, names in thirds if len(names)}
    return {WHOLE: list(layers), **parts}


def gate_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Gates (C,) of all batch-instance normalization layers, in the order of the network.

    They go by the name that `named_parameters` of the network, or layer, gives them.
    """
    return {
        f"{name}.gate" if name else "gate": layer.gate
        for name, layer in module.named_modules()
        if isinstance(layer, BatchInstanceNorm2d)
    }


def clip_gates_(module: nn.Module) -> None:
    """Clip the gates of all batch-instance normalization layers into [0, 1], in place."""
    clip_([gate.detach() for gate in gate_parameters(module).values()])


def clip_(gates: list[Tensor]) -> None:
    """Clip gates to [0, 1], in place (Eq. 9 and 10).

    Args:
        gates: tensors that require no gradient.
    """
    if gates:
        torch._foreach_clamp_min_(gates, 0.0)
        torch._foreach_clamp_max_(gates, 1.0)


def count_gates(module: nn.Module) -> tuple[int, int]:
    """Number of batch-instance normalization layers and of gates (one per channel and layer).

    The paper's MobileNetV2 x1.4 has 53 and 23,822.
    """
    gates = gate_parameters(module).values()
    return len(gates), sum(gate.numel() for gate in gates)
