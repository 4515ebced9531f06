"""Keeping jointly trained gates in [0, 1]."""

from __future__ import annotations

from fastreid.engine.train_loop import HookBase
from torch import nn

from metabin_plugin.norm import clip_gates_


class ClipGatesHook(HookBase):
    """Clips gates that the base optimizer trains (BIN without meta-learning) after each step.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def after_step(self) -> None:
        """Clip every gate into [0, 1] (Eq. 1: rho in [0, 1])."""
        clip_gates_(self.model)
