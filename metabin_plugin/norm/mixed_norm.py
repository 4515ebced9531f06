"""What the layers that mix batch and instance normalization have in common."""

from __future__ import annotations

from torch import Tensor, nn

from metabin_plugin.norm.affine import Parameters
from metabin_plugin.norm.functional import batch_instance_norm
from metabin_plugin.norm.statistics import count_batch_


class MixedNorm2d(nn.BatchNorm2d):
    """A layer that computes Eq. 1 (paper section 3.2) with the parameters that a subclass gives it.

    Statistics follow `nn.BatchNorm2d`: in training with `track_running_stats` switched off the
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

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.synchronize = False
        self.form = "auto"

    def mixture(self) -> Parameters:
        """Gate, weight and bias of the batch half, weight and bias of the instance half; (C,)."""
        raise NotImplementedError

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
            *self.mixture(),
            None if holds else self.running_mean,
            None if holds else self.running_var,
            training=self.training or self.running_mean is None,
            momentum=momentum,
            eps=self.eps,
            synchronize=self.synchronize,
            form=self.form,
        )
