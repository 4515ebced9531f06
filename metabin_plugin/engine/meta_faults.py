"""What in a meta-learning step is not finite, and where it came from."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metabin_plugin.engine.activations import largest_magnitudes, nonfinite_names
from metabin_plugin.engine.gradient_signs import SIGNS, sign_shares
from metabin_plugin.meta import MetaStep


@dataclass(frozen=True)
class MetaFault:
    """The first number of a meta-learning step that is not finite.

    Attributes:
        stage: "meta-train" (at rho) or "meta-test" (at rho').
        is_gradient: whether it is a gradient with respect to the gates, not a loss.
    """

    stage: str
    is_gradient: bool

    def name(self, step: MetaStep) -> str:
        """How to call it in a sentence."""
        if not self.is_gradient:
            return f"the {self.stage} loss"
        inner = self.stage == "meta-train"
        gradients = step.inner_gradients if inner else step.outer_gradients
        # The backward pass meets the layers in reverse.
        gate = next(reversed(nonfinite_names(gradients)), "a gate")
        return f"the {self.stage} gradient of {gate}"


# In the order in which they are computed: what follows the first fault may be its consequence.
_IN_ORDER = (
    MetaFault("meta-train", is_gradient=False),
    MetaFault("meta-train", is_gradient=True),
    MetaFault("meta-test", is_gradient=False),
    MetaFault("meta-test", is_gradient=True),
)


class StepNumbers(NamedTuple):
    """What is read of a step.

    Attributes:
        fault: the first fault in any of the processes, the same in all; None if it is sound.
        losses: this process's losses, those of meta-train and then those of meta-test.
        shares: of gates with a positive and with a negative gradient of L_mtr.
    """

    fault: MetaFault | None
    losses: list[float]
    shares: list[float]


def read_step(step: MetaStep, gates: Collection[str]) -> StepNumbers:
    """Read from the device what the rest of the iteration needs to know, in one transfer.

    Args:
        step: what the step computed.
        gates: names of the gates among its parameters.
    """
    computed: tuple[Mapping[str, Tensor], ...] = (
        step.meta_train_losses,
        step.inner_gradients,
        step.meta_test_losses,
        step.outer_gradients,
    )
    largest = largest_magnitudes([tensor for stage in computed for tensor in stage.values()])
    shares = sign_shares({name: step.inner_gradients[name] for name in gates})
    losses = [*step.meta_train_losses.values(), *step.meta_test_losses.values()]
    numbers = iter(torch.cat([largest, shares, *(loss[None] for loss in losses)]).tolist())
    faults = [
        fault
        for fault, stage in zip(_IN_ORDER, computed, strict=True)
        if not all([math.isfinite(next(numbers)) for _ in stage])
    ]
    read_shares = [next(numbers) for _ in SIGNS]
    return StepNumbers(faults[0] if faults else None, [*numbers], read_shares)
