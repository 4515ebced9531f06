"""``SimpleTrainer._write_metrics`` reads the losses in a CUDA stream of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from metabin_plugin.compat.rebinding import repair


class NonFiniteLosses(FloatingPointError):
    """The losses of an iteration are not finite; raised on all processes together.

    Args:
        iteration: number of the iteration.
        rank: the first process with such losses.
        losses: its losses, by name.
    """

    def __init__(self, iteration: int, rank: int, losses: Mapping[str, float]) -> None:
        super().__init__(f"the loss is not finite at iteration {iteration} (rank {rank}): {losses}")
        self.losses = losses


class Watch:
    """A number to be read from the device with the losses of each step, after the backward pass.

    It is at work while it is the attribute ``watch`` of a ``SimpleTrainer``.

    Args:
        number: computes it, a tensor of one element.

    Attributes:
        value: the number of the last step.
    """

    def __init__(self, number: Callable[[], torch.Tensor]) -> None:
        self.number = number
        self.value = math.nan


def _write_metrics(trainer: Any, losses: Mapping[str, torch.Tensor], data_time: float) -> None:
    from fastreid.utils import comm
    from fastreid.utils.events import get_event_storage

    watch = getattr(trainer, "watch", None)
    numbers = [*losses.values()] if watch is None else [*losses.values(), watch.number()]
    # All at once: each reading waits for the device.
    read = torch.cat([number.detach().reshape(1) for number in numbers]).tolist()
    if watch is not None:
        watch.value = read.pop()
    # To all processes, not to the main one alone: none of them may go on to the optimizer.
    ranks = comm.all_gather((dict(zip(losses, read, strict=True)), data_time))
    for rank, (values, _) in enumerate(ranks):
        if not all(map(math.isfinite, values.values())):
            raise NonFiniteLosses(trainer.iter, rank, values)
    if not comm.is_main_process():
        return
    storage = get_event_storage()
    storage.put_scalar("data_time", max(seconds for _, seconds in ranks))
    means = {name: sum(values[name] for values, _ in ranks) / len(ranks) for name in losses}
    storage.put_scalar("total_loss", sum(means.values()))
    if len(means) > 1:
        storage.put_scalars(**means)


def _without_stream(_original: Callable[..., Any]) -> Callable[..., Any]:
    def write_metrics(self: Any, loss_dict: Mapping[str, torch.Tensor], data_time: float) -> None:
        _write_metrics(self, loss_dict, data_time)

    return write_metrics


def repair_metrics() -> None:
    """``_write_metrics`` opens a CUDA stream that does not wait for the one computing the losses.

    On CUDA it can thus read them before they are there, and stop a sound training with "infinite or
    NaN"; on CPU it touches ``torch.cuda`` for nothing. And it looks for such losses on the main
    process alone, while the others go on and wait for it. The replacement reads them where they
    are, and raises :class:`NonFiniteLosses` on all processes.
    """
    from fastreid.engine.train_loop import SimpleTrainer

    repair(SimpleTrainer, "_write_metrics", _without_stream)
