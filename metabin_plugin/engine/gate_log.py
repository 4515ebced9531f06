"""The gates of a training in its log: histograms for TensorBoard, and their means and shares."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from fastreid.utils.events import EventStorage, EventWriter, get_event_storage
from torch import Tensor

from metabin_plugin.norm.gates import WHOLE, network_parts

# fastreid's default of 1,000 would add half a megabyte to the events file at every writing.
BINS = 20


class GateLog(EventWriter):
    """Stores the gates (rho, Eq. 1) for the writers behind it, at the iterations that they write.

    Histograms ``gates/all`` and ``gates/LAYER``. Scalars ``gates_mean/PART``, and
    ``gates_below_half/PART``, the share of gates that take more of instance than of batch
    normalization, of the whole network and of its thirds. The device is waited for once, and in no
    other iteration.

    Args:
        gates: gates (C,) by parameter name, in the order of the network.
    """

    def __init__(self, gates: Mapping[str, Tensor]) -> None:
        self._gates = list(gates.values())
        self._layers = [_layer(name) for name in gates]

    def write(self) -> None:
        """Store histograms and scalars, once for each iteration."""
        storage = get_event_storage()
        _, written = storage.latest().get(f"gates_mean/{WHOLE}", (0.0, -1))
        # The end of an epoch is written a second time, in a resumed run by another object.
        if written == storage.iter:
            return
        values = torch.cat([gate.detach().flatten() for gate in self._gates]).float().cpu()
        split = values.split([gate.numel() for gate in self._gates])
        layers = dict(zip(self._layers, split, strict=True))
        storage.put_histogram(f"gates/{WHOLE}", values, BINS)
        for name, layer in layers.items():
            storage.put_histogram(f"gates/{name}", layer, BINS)
        for part, names in network_parts(self._layers).items():
            _put_scalars(storage, part, torch.cat([layers[name] for name in names]))


def _put_scalars(storage: EventStorage, part: str, gates: Tensor) -> None:
    below = (gates < 0.5).float()
    storage.put_scalar(f"gates_mean/{part}", gates.mean(), smoothing_hint=False)
    storage.put_scalar(f"gates_below_half/{part}", below.mean(), smoothing_hint=False)


def _layer(name: str) -> str:
    return name.removeprefix("module.").removeprefix("backbone.").removesuffix(".gate")
