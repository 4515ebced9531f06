"""``SimpleTrainer._write_metrics`` reads the losses in a CUDA stream of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from metabin_plugin.compat.rebinding import repair


def _write_metrics(trainer: Any, losses: Mapping[str, torch.Tensor], data_time: float) -> None:
    from fastreid.utils import comm
    from fastreid.utils.events import get_event_storage

    values = {name: float(loss.detach()) for name, loss in losses.items()}
    ranks = comm.gather((values, data_time))
    if not comm.is_main_process():
        return
    storage = get_event_storage()
    storage.put_scalar("data_time", max(seconds for _, seconds in ranks))
    means = {name: sum(rank[name] for rank, _ in ranks) / len(ranks) for name in values}
    total = sum(means.values())
    if not math.isfinite(total):
        raise FloatingPointError(f"The loss is not finite at iteration {trainer.iter}: {means}")
    storage.put_scalar("total_loss", total)
    if len(means) > 1:
        storage.put_scalars(**means)


def _without_stream(_original: Callable[..., Any]) -> Callable[..., Any]:
    def write_metrics(self: Any, loss_dict: Mapping[str, torch.Tensor], data_time: float) -> None:
        _write_metrics(self, loss_dict, data_time)

    return write_metrics


def repair_metrics() -> None:
    """``_write_metrics`` opens a CUDA stream that does not wait for the one computing the losses.

    On CUDA it can thus read them before they are there, and stop a sound training with "infinite or
    NaN"; on CPU it touches ``torch.cuda`` for nothing. The replacement reads them where they are.
    """
    from fastreid.engine.train_loop import SimpleTrainer

    repair(SimpleTrainer, "_write_metrics", _without_stream)
