"""MoCo's queue of features takes some batch sizes only, and masks the wrong pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from metabin_plugin.compat.rebinding import repair

# Of a place that holds no image yet: no identity's number.
NO_IDENTITY = -1

# Nothing in a sum of exponentials, and finite, so that a row of it has a gradient.
_NEGLIGIBLE = -1e8


def _with_empty_places(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.queue_label.fill_(NO_IDENTITY)

    return __init__


def _around_the_end(_original: Callable[..., None]) -> Callable[..., None]:
    @torch.no_grad()
    def _dequeue_and_enqueue(self: Any, keys: Tensor, targets: Tensor) -> None:
        from fastreid.modeling.losses.utils import concat_all_gather
        from fastreid.utils import comm

        if comm.get_world_size() > 1:
            keys, targets = concat_all_gather(keys), concat_all_gather(targets)
        places = _places(self, 0, len(keys))
        self.queue[:, places] = keys.T.to(self.queue.dtype)
        self.queue_label[:, places] = targets
        self.queue_ptr.add_(len(keys)).remainder_(self.K)

    return _dequeue_and_enqueue


def _without_itself(_original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def _pairwise_cosface(self: Any, features: Tensor, targets: Tensor) -> Tensor:
        from fastreid.utils import comm

        count = len(features)
        # This process's own images among the last ones of the queue.
        before_the_end = (comm.get_world_size() - comm.get_rank()) * count
        own = _places(self, -before_the_end, count)
        similarities = features @ self.queue.to(features.dtype)
        is_same = targets[:, None] == self.queue_label
        is_itself = torch.zeros_like(is_same)
        is_itself[torch.arange(count, device=own.device), own] = True
        positives = (-self.gamma * similarities).masked_fill(~is_same | is_itself, _NEGLIGIBLE)
        negatives = (self.gamma * (similarities + self.margin)).masked_fill(is_same, _NEGLIGIBLE)
        return functional.softplus(positives.logsumexp(1) + negatives.logsumexp(1)).mean()

    return _pairwise_cosface


def _places(memory: Any, offset: int, count: int) -> Tensor:
    """Places in the queue, counted from the next to be filled, which moves around its end."""
    steps = torch.arange(offset, offset + count, device=memory.queue.device)
    return (memory.queue_ptr + steps) % memory.K


def repair_memory_queue() -> None:
    """MoCo stops with an AssertionError where the batch does not divide ``MODEL.QUEUE_SIZE``.

    And its loss is not what it says: an image is not paired with itself, for which fastreid takes
    the queue's first places, whichever images they hold; and the random features that fill the
    queue at first count as images of identity 0. Here images go around the queue's end, the pair
    left out is the image's own, and a random feature has no identity, so that it is a negative
    for all.
    """
    from fastreid.modeling.meta_arch.moco import Memory

    repair(Memory, "__init__", _with_empty_places)
    repair(Memory, "_dequeue_and_enqueue", _around_the_end)
    repair(Memory, "_pairwise_cosface", _without_itself)
