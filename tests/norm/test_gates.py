from __future__ import annotations

from torch import nn

from metabin_plugin.norm import (
    BatchInstanceNorm2d,
    convert_norm,
    count_gates,
    gate_parameters,
)


def test_gates_are_named_as_named_parameters_does() -> None:
    net = convert_norm(
        nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6))),
        "BIN",
    )
    gates = gate_parameters(net)
    assert list(gates) == ["0.gate", "1.1.gate"]
    named = dict(net.named_parameters())
    assert all(named[name] is gate for name, gate in gates.items())
    assert count_gates(net) == (2, 10)


def test_a_single_layer_and_a_network_without_gates() -> None:
    layer = BatchInstanceNorm2d(5)
    assert list(gate_parameters(layer)) == ["gate"]
    assert gate_parameters(layer)["gate"] is layer.gate
    assert count_gates(nn.BatchNorm2d(5)) == (0, 0)
