"""Learning-rate steps counted from the start of training."""

from __future__ import annotations

import math

from fastreid.config import CfgNode


def steps_from_start(cfg: CfgNode, iters_per_epoch: int) -> CfgNode:
    """A config whose ``SOLVER.STEPS`` make fastreid decay at these epochs of the whole training.

    fastreid's epoch scheduler starts with the epoch in which the warm-up ends, so its milestones
    lie later by the epochs before.

    Args:
        cfg: the config; it is not changed.
        iters_per_epoch: iterations in an epoch.

    Returns:
        A copy with the milestones moved back by the epochs that the scheduler does not see.
    """
    unseen = max(0, math.ceil(cfg.SOLVER.WARMUP_ITERS / iters_per_epoch) - 1)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.STEPS = [max(1, step - unseen) for step in cfg.SOLVER.STEPS]
    return cfg
