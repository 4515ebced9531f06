"""Values of the mixed-precision keys that cannot work."""

from __future__ import annotations

import torch
from fastreid.config import CfgNode

from metabin_plugin.engine.value_checks import check_choice
from metabin_plugin.errors import ConfigError


def check_mixed_precision(cfg: CfgNode) -> None:
    """Check ``SOLVER.AMP.DTYPE``; types, and ``MODEL.DEVICE``, are right.

    Args:
        cfg: the config.

    Raises:
        ConfigError: the type is none, or not one for the device.
    """
    amp = cfg.SOLVER.AMP
    check_choice("SOLVER.AMP.DTYPE", amp.DTYPE, ("auto", "float16", "bfloat16"))
    if amp.ENABLED and amp.DTYPE == "float16" and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        raise ConfigError(
            "SOLVER.AMP.DTYPE is float16, which needs a GPU, but MODEL.DEVICE is "
            f"{cfg.MODEL.DEVICE!r}; set SOLVER.AMP.DTYPE bfloat16"
        )
