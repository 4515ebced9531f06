"""Instance normalization of one half of the channels, batch normalization of the other."""

from __future__ import annotations

import torch
from torch import Tensor

from metabin_plugin.norm.affine import Parameters
from metabin_plugin.norm.mixed_norm import MixedNorm2d


class HalfInstanceNorm2d(MixedNorm2d):
    """The first half of the channels instance-normalized, the others batch-normalized.

    The layer of IBN-Net (Pan et al., "Two at Once", ECCV 2018, variant a), which is the "BN+IN
    half" of the paper's Table 4. The paper does not say which layers it replaces: here it is every
    one, as for batch-instance normalization. Of an odd number of channels the larger part is
    batch-normalized.

    Parameters and buffers are those of `nn.BatchNorm2d`, so that its checkpoints load, and the
    other way round. Running statistics are kept of all channels; those of the instance-normalized
    ones are used on a 1x1 feature map only, which has no instance statistics.

    Args:
        num_features: number of channels C.
        eps: added to both variances before the square root.
        momentum: factor of the new value in the running statistics; None is a cumulative average.

    Attributes:
        gate: 0 for instance-normalized channels, 1 for batch-normalized ones (C,); a constant.
    """

    gate: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        is_batch = torch.arange(num_features) >= num_features // 2
        self.register_buffer("gate", is_batch.to(self.weight.dtype), persistent=False)

    def mixture(self) -> Parameters:
        """The fixed gates, and the one affine map of both halves twice."""
        return self.gate, self.weight, self.bias, self.weight, self.bias
