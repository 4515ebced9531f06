"""The batch-instance normalization layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metabin_plugin.norm.functional import batch_instance_norm
from metabin_plugin.norm.statistics import count_batch_


class BatchInstanceNorm2d(nn.BatchNorm2d):
    """Batch and instance normalization, balanced per channel by a gate (paper section 3.2, Eq. 1).

    The batch half keeps the parameter and buffer names of `nn.BatchNorm2d`, so its checkpoints
    load (with `strict=False`: `gate`, `instance_weight` and `instance_bias` are missing there).
    With all gates at 1, where they start, the layer computes what `nn.BatchNorm2d` computes.

    Statistics follow `nn.BatchNorm2d` too: in training with `track_running_stats` switched off the
    statistics of the batch are used and the running ones stay as they are (the "hold" of the meta
    step); in evaluation the batch half uses the running statistics, the instance half always those
    of the instance. A 1x1 feature map is only batch-normalized.

    Args:
        num_features: number of channels C.
        eps: added to both variances before the square root.
        momentum: factor of the new value in the running statistics; None is a cumulative average.

    Attributes:
        synchronize: whether batch statistics are those of all processes of a distributed run.
        form: how to compute it, one of `metabin_plugin.norm.NORM_FORMS`.
    """

    gate: nn.Parameter
    instance_weight: nn.Parameter
    instance_bias: nn.Parameter

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.synchronize = False
        self.form = "auto"
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

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a feature map.

        Args:
            x: feature map (N, C, H, W).

        Returns:
            Normalized feature map of the same shape, dtype and memory format.

        Raises:
            ValueError: `x` is not 4-D, has another number of channels, or has one value per
                channel in training.
        """
        updates = self.training and self.track_running_stats
        momentum = count_batch_(self) if updates else 0.0
        holds = self.training and not self.track_running_stats
        return batch_instance_norm(
            x,
            self.gate,
            self.weight,
            self.bias,
            self.instance_weight,
            self.instance_bias,
            None if holds else self.running_mean,
            None if holds else self.running_var,
            training=self.training or self.running_mean is None,
            momentum=momentum,
            eps=self.eps,
            synchronize=self.synchronize,
            form=self.form,
        )

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
