"""Keeping jointly trained gates in [0, 1]."""

from __future__ import annotations

from fastreid.engine.train_loop import HookBase
from torch import nn

from metabin_plugin.norm import BatchInstanceNorm2d


class ClipGatesHook(HookBase):
    """Clips gates that the base optimizer trains (BIN without meta-learning) after each step.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, BatchInstanceNorm2d)]

    def after_step(self) -> None:
        """Clip every gate into [0, 1] (Eq. 1: rho in [0, 1])."""
        for layer in self.layers:
            layer.clip_gate_()
