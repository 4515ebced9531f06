from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.utils import comm
from fastreid.utils.events import EventStorage

from metabin_plugin.compat.training import NonFiniteLosses


def write(**losses: float) -> dict[str, tuple[float, int]]:
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in losses.items()}
    with EventStorage() as storage:
        SimpleTrainer._write_metrics(SimpleNamespace(iter=7), tensors, 0.25)
    return {name: value for name, (value, _) in storage.latest().items()}


def test_losses_and_their_sum_are_stored():
    assert write(loss_cls=1.5, loss_triplet=0.5) == {
        "data_time": 0.25,
        "loss_cls": 1.5,
        "loss_triplet": 0.5,
        "total_loss": 2.0,
    }


def test_a_loss_that_is_not_finite_stops_the_training_and_is_named():
    with pytest.raises(FloatingPointError, match=r"iteration 7.*'loss_cls': nan"):
        write(loss_cls=float("nan"), loss_triplet=0.5)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_loss_of_another_process_stops_this_one_too(monkeypatch, rank):
    others = {"loss_cls": float("inf"), "loss_triplet": 0.5}
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, (others, 0.1)])
    with pytest.raises(NonFiniteLosses, match=r"iteration 7 \(rank 1\)") as caught:
        write(loss_cls=1.5, loss_triplet=0.5)
    assert caught.value.losses == others


def test_losses_are_read_in_the_stream_that_computes_them(monkeypatch):
    def refuse(stream):
        raise AssertionError("a stream of its own does not wait for the losses")

    monkeypatch.setattr(torch.cuda, "stream", refuse)
    assert write(loss_cls=1.0)["total_loss"] == 1.0
