"""The gates of a training in its log: histograms for TensorBoard, and their means and shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from fastreid.utils.events import EventStorage, EventWriter, get_event_storage
from torch import Tensor

# The network and its thirds, from the image to the feature (Fig. 4).
WHOLE, THIRDS = "all", ("shallow", "middle", "deep")
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
        layers = values.split([gate.numel() for gate in self._gates])
        storage.put_histogram(f"gates/{WHOLE}", values, BINS)
        for name, layer in zip(self._layers, layers, strict=True):
            storage.put_histogram(f"gates/{name}", layer, BINS)
        _put_scalars(storage, dict(_parts(layers)))


def _put_scalars(storage: EventStorage, parts: Mapping[str, Tensor]) -> None:
    for part, gates in parts.items():
        below = (gates < 0.5).float()
        storage.put_scalar(f"gates_mean/{part}", gates.mean(), smoothing_hint=False)
        storage.put_scalar(f"gates_below_half/{part}", below.mean(), smoothing_hint=False)


def _parts(layers: tuple[Tensor, ...]) -> Iterator[tuple[str, Tensor]]:
    """All gates, and those of each third of the layers; the first thirds may be a layer longer."""
    yield WHOLE, torch.cat(layers)
    thirds = torch.arange(len(layers)).tensor_split(len(THIRDS))
    for part, numbers in zip(THIRDS, thirds, strict=True):
        if len(numbers):
            yield part, torch.cat([layers[number] for number in numbers.tolist()])


def _layer(name: str) -> str:
    return name.removeprefix("module.").removeprefix("backbone.").removesuffix(".gate")
