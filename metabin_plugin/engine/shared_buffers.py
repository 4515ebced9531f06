"""One network for all processes of an evaluation."""

from __future__ import annotations

import torch.distributed as dist
from fastreid.utils import comm
from torch import nn


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of rank 0, in place; all processes must call it.

    Each process moves its running statistics by its own share of the batches (without
    ``METABIN.SYNC_STATS``), and rank 0's are those of the checkpoints. An evaluation, of which each
    process does a part, is thus that of the network that is saved. Training in batch statistics
    does not read them.

    Args:
        model: network, wrapped or not; the same in all processes but for the buffers.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
