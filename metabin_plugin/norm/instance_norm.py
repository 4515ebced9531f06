"""Instance normalization in the place of batch normalization."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from metabin_plugin.errors import NormError
from metabin_plugin.norm.native import memory_format_of


class InstanceNorm2d(nn.InstanceNorm2d):
    """`nn.InstanceNorm2d` with an affine map, called as `nn.BatchNorm2d` is (IN in Table 4).

    `weight` and `bias` have the names that they have in `nn.BatchNorm2d`, so that its checkpoints
    load (with `strict=False`: there are no running statistics here). It computes the same in
    training and in evaluation.

    Args:
        num_features: number of channels C.
        eps: added to the variance before the square root.
        momentum: without effect; it is there because norms are called with it.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a feature map.

        Args:
            x: feature map (N, C, H, W).

        Returns:
            Normalized feature map of the same shape, dtype and memory format.

        Raises:
            NormError: the feature map is 1x1, so that nothing of it would be left.
        """
        if x.shape[2:] == (1, 1):
            raise NormError(
                "instance normalization leaves nothing of a 1x1 feature map: choose larger images "
                "or another norm"
            )
        # PyTorch's own gives a contiguous map whatever it gets.
        return super().forward(x).contiguous(memory_format=memory_format_of(x))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        # PyTorch takes the running statistics of a state dict that names no version for a mistake.
        super()._load_from_state_dict(state_dict, prefix, {"version": 2, **local_metadata}, *args)
