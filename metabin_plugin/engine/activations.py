"""Finding where in a network the numbers go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fastreid.utils import comm
from torch import Tensor, nn

INPUT_IMAGES = "the input images"
LOSS_ITSELF = "the loss itself"


@dataclass(frozen=True)
class Place:
    """Where in a forward pass a value is not finite.

    Attributes:
        name: ``INPUT_IMAGES``, the layer's name in the network with its class, or ``LOSS_ITSELF``.
        order: how many layers had been entered or left before.
    """

    name: str
    order: int


def first_nonfinite(model: nn.Module, forward: Callable[[], object]) -> Place | None:
    """Where the first non-finite value of a forward pass arises.

    That is the first layer, in the order of execution, whose output has one although its inputs
    have none. A layer made of others is named only where its own computation is at fault.

    Args:
        model: the network; as it was afterwards, as long as ``forward`` leaves its buffers.
        forward: runs ``model``, or parts of it, and returns the losses. Called once, without
            gradients; the random generators of PyTorch are afterwards as they were.

    Returns:
        The place, or None where the outputs of all layers and the losses are finite.
    """
    watch = _Watch(type(model).__name__)
    handles = [
        handle
        for name, module in model.named_modules()
        if module is not model
        for handle in watch.attach(f"{name} ({type(module).__name__})", module)
    ]
    device = next(model.parameters()).device
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            watch.finish(forward())
    finally:
        for handle in handles:
            handle.remove()
    return watch.first


def largest_magnitudes(tensors: Collection[Tensor]) -> Tensor:
    """The largest magnitude in each tensor, which is infinite or NaN where a value is.

    Args:
        tensors: one at least.

    Returns:
        One number for each, on their device, not yet read. With several processes it is the same
        in all: 0, or NaN where the tensor is not finite in one of them.
    """
    largest = torch.stack(torch._foreach_norm([t.detach() for t in tensors], math.inf))
    if comm.get_world_size() > 1:
        # Zero times a number that is not finite is NaN, which a sum keeps.
        torch.distributed.all_reduce(largest.mul_(0))
    return largest


def nonfinite_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a non-finite value, in their order."""
    if not tensors:
        return []
    finite = torch.stack([tensor.detach().isfinite().all() for tensor in tensors.values()])
    return [name for name, fine in zip(tensors, finite.tolist(), strict=True) if not fine]


class _Watch:
    """Follows the calls of layers and keeps the first place with a non-finite value."""

    def __init__(self, model: str) -> None:
        self.first: Place | None = None
        self._model = model
        self._running: list[str] = []
        self._order = 0

    def attach(self, label: str, module: nn.Module) -> Iterator[Any]:
        def before(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._look(self._caller(), (inputs, named))
            self._running.append(label)

        def after(_module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
            self._running.pop()
            self._look(label, output)

        yield module.register_forward_pre_hook(before, with_kwargs=True)
        yield module.register_forward_hook(after)

    def finish(self, losses: object) -> None:
        """Look at what the forward pass returned."""
        self._look(LOSS_ITSELF, losses)

    def _look(self, name: str, values: object) -> None:
        if self.first is None and not _is_finite(values):
            self.first = Place(name, self._order)
        self._order += 1

    def _caller(self) -> str:
        # What comes between layers is computed by the one that calls them.
        if self._running:
            return self._running[-1]
        return self._model if self._order else INPUT_IMAGES


def _is_finite(value: object) -> bool:
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_finite(item) for item in value)
    return True
