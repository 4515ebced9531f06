"""The seed of the data streams."""

from __future__ import annotations

from fastreid.utils import comm
from yacs.config import CfgNode


def stream_seed(cfg: CfgNode) -> int:
    """Return ``METABIN.SEED``, or a random seed shared by all ranks if it is negative or missing.

    Args:
        cfg: a fastreid config.
    """
    seed = cfg.METABIN.SEED if "METABIN" in cfg else -1
    return seed if seed >= 0 else comm.shared_random_seed()
