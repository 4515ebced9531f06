"""A norm of one's own: batch-instance normalization with one balance for all channels of a layer.

python projects/Examples/own_norm.py --config-file configs/MetaBIN.yml
    MODEL.BACKBONE.NORM LayerGateNorm2d [KEY VALUE ...]
"""

from __future__ import annotations

import metabin_plugin

metabin_plugin.let_waiting_threads_sleep()
metabin_plugin.register()

from torch import Tensor

from metabin_plugin.engine import run_command_line
from metabin_plugin.norm import BatchInstanceNorm2d
from metabin_plugin.registries import NORM_REGISTRY


@NORM_REGISTRY.register()
class LayerGateNorm2d(BatchInstanceNorm2d):
    """Eq. 1 with the mean of the layer's gates in the place of each.

    All gates start at 1 and get the same gradient, so that they stay equal. As a
    `BatchInstanceNorm2d` it has its gates found, clipped to [0, 1] and meta-learned.
    """

    def mixture(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gate, weight and bias of the batch half, weight and bias of the instance half; (C,)."""
        gate, *affine_maps = super().mixture()
        weight, bias, instance_weight, instance_bias = affine_maps
        return gate.mean().expand_as(gate), weight, bias, instance_weight, instance_bias


if __name__ == "__main__":
    run_command_line()
