"""Finding the gates (balancing parameters rho) of a network."""

from __future__ import annotations

from torch import nn

from metabin_plugin.norm.batch_instance_norm import BatchInstanceNorm2d


def gate_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Gates of all batch-instance normalization layers, in the order of the network.

    Args:
        module: network or layer.

    Returns:
        Parameter name within `module` (as `named_parameters` has it) to gate (C,).
    """
    return {
        f"{name}.gate" if name else "gate": layer.gate
        for name, layer in module.named_modules()
        if isinstance(layer, BatchInstanceNorm2d)
    }


def clip_gates_(module: nn.Module) -> None:
    """Clip the gates of all batch-instance normalization layers into [0, 1], in place.

    Args:
        module: network or layer.
    """
    for layer in module.modules():
        if isinstance(layer, BatchInstanceNorm2d):
            layer.clip_gate_()


def count_gates(module: nn.Module) -> tuple[int, int]:
    """Number of batch-instance normalization layers and of gates (one per channel and layer).

    Args:
        module: network or layer.

    Returns:
        Layers and gates; the paper's MobileNetV2 x1.4 has 53 and 23,822.
    """
    gates = gate_parameters(module).values()
    return len(gates), sum(gate.numel() for gate in gates)
