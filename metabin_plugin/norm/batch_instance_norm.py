"""The batch-instance normalization layer."""

from __future__ import annotations

import torch
from torch import nn

from metabin_plugin.norm.affine import Parameters
from metabin_plugin.norm.mixed_norm import MixedNorm2d


class BatchInstanceNorm2d(MixedNorm2d):
    """Batch and instance normalization, balanced per channel by a gate (paper section 3.2, Eq. 1).

    The batch half keeps the parameter and buffer names of `nn.BatchNorm2d`, so its checkpoints
    load (with `strict=False`: `gate`, `instance_weight` and `instance_bias` are missing there).
    With all gates at 1, where they start, the layer computes what `nn.BatchNorm2d` computes.
    A 1x1 feature map is only batch-normalized; statistics follow `nn.BatchNorm2d`, as `MixedNorm2d`
    has it.

    Args:
        num_features: number of channels C.
        eps: added to both variances before the square root.
        momentum: factor of the new value in the running statistics; None is a cumulative average.
    """

    gate: nn.Parameter
    instance_weight: nn.Parameter
    instance_bias: nn.Parameter

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.gate = nn.Parameter(torch.ones(num_features))
        self.instance_weight = nn.Parameter(torch.ones(num_features))
        self.instance_bias = nn.Parameter(torch.zeros(num_features))

    def reset_parameters(self) -> None:
        """Return to the initial state: unit scale, zero shift, all gates at 1 (all of it BN)."""
        super().reset_parameters()
        # The parent's constructor calls this before the instance half exists.
        if "gate" in self._parameters:
            nn.init.ones_(self.gate)
            nn.init.ones_(self.instance_weight)
            nn.init.zeros_(self.instance_bias)

    def mixture(self) -> Parameters:
        """The layer's own gates and affine maps."""
        return self.gate, self.weight, self.bias, self.instance_weight, self.instance_bias

    @torch.no_grad()
    def clip_gate_(self) -> None:
        """Clip the gates into [0, 1], in place."""
        self.gate.clamp_(0.0, 1.0)

    @torch.no_grad()
    def copy_batch_affine_(self) -> None:
        """Let the instance half start where the batch half is: same affine, frozen where that is.

        The paper does not say where the instance affine of a pretrained network starts.
        """
        self.instance_weight.copy_(self.weight).requires_grad_(self.weight.requires_grad)
        self.instance_bias.copy_(self.bias).requires_grad_(self.bias.requires_grad)
