"""``SOLVER.FREEZE_ITERS`` counts from the start of the process, and a resumed run freezes anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from metabin_plugin.compat.rebinding import repair

_COUNT = "freeze_steps"


def _with_saved_count(_original: Callable[..., Any]) -> Callable[..., Any]:
    def generate(
        optimizer: type[torch.optim.Optimizer], *, freeze_iters: int
    ) -> type[torch.optim.Optimizer]:
        class WithFreezeLayer(optimizer):  # type: ignore[misc, valid-type]
            def step(self, closure: Callable[[], float] | None = None) -> Any:
                # In a group, which the optimizer's state_dict holds.
                first = self.param_groups[0]
                done = first.get(_COUNT, 0)
                if done >= freeze_iters:
                    return super().step(closure)
                first[_COUNT] = done + 1
                frozen = [
                    (parameter, parameter.grad)
                    for group in self.param_groups
                    if group["freeze_status"] == "freeze"
                    for parameter in group["params"]
                ]
                for parameter, _ in frozen:
                    parameter.grad = None
                loss = super().step(closure)
                for parameter, gradient in frozen:
                    parameter.grad = gradient
                return loss

        return WithFreezeLayer

    return generate


def repair_layer_freezing() -> None:
    """The optimizer of ``MODEL.FREEZE_LAYERS`` keeps its count of steps in no state."""
    from fastreid.solver import build

    repair(build, "_generate_optimizer_class_with_freeze_layer", _with_saved_count)
