"""Batch normalization over the batches of all processes."""

from __future__ import annotations

from torch import Tensor, nn

from metabin_plugin.norm.functional import synchronized_batch_norm
from metabin_plugin.norm.statistics import count_batch_


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose batch is that of all processes of a distributed run.

    Parameters, buffers and results are those of `nn.BatchNorm2d`, bit for bit with one process.
    Unlike `nn.SyncBatchNorm` it takes CPU tensors and is twice differentiable.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a feature map.

        Args:
            x: feature map (N, C, H, W).

        Returns:
            Normalized feature map of the same shape and dtype.

        Raises:
            ValueError: `x` is not 4-D, or has one value per channel in all processes together.
        """
        self._check_input_dim(x)
        updates = self.training and self.track_running_stats
        holds = self.training and not self.track_running_stats
        return synchronized_batch_norm(
            x,
            None if holds else self.running_mean,
            None if holds else self.running_var,
            self.weight,
            self.bias,
            training=self.training or self.running_mean is None,
            momentum=count_batch_(self) if updates else 0.0,
            eps=self.eps,
        )
