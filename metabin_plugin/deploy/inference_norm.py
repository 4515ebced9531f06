"""Batch-instance normalization for inference, where most of it is a constant affine map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metabin_plugin.norm import native
from metabin_plugin.norm.batch_instance_norm import choose_form
from metabin_plugin.norm.formula import dense, instance_statistics, over_map
from metabin_plugin.precision import at_least_float32


class InferenceNorm2d(nn.Module):
    """Eq. 1 at fixed gates and running statistics: one affine map per (sample, channel).

    Only open channels, those whose gate is not 1, need statistics of the instance; in all others
    the map is a constant. Statistics are taken of the open channels alone, unless these are so many
    that it is faster to take them of all. The operators are reductions, additions and
    multiplications, which every inference engine has. As in `BatchInstanceNorm2d`, a 1x1 feature
    map is only batch-normalized.

    Args:
        gate: balancing parameter rho (C,).
        scale: scale of the batch half, its affine and running variance in one (C,).
        shift: shift of the batch half (C,).
        instance_weight: affine weight of the instance half (C,).
        instance_bias: affine bias of the instance half (C,).
        eps: added to the instance variance before the square root.

    Attributes:
        open_channels: indices of the open channels, ascending.
    """

    scale: Tensor
    shift: Tensor
    mixed_scale: Tensor
    mixed_shift: Tensor
    instance_scale: Tensor
    open_channels: Tensor
    place: Tensor

    def __init__(
        self,
        gate: Tensor,
        scale: Tensor,
        shift: Tensor,
        instance_weight: Tensor,
        instance_bias: Tensor,
        eps: float,
    ) -> None:
        super().__init__()
        is_open = gate != 1
        # Where an open channel is among the open ones; any place will do for the others, whose
        # instance scale is 0.
        place = (is_open.cumsum(0) - 1).clamp_(min=0)
        for name, value in {
            "scale": scale,
            "shift": shift,
            "mixed_scale": gate * scale,
            "mixed_shift": gate * shift + (1 - gate) * instance_bias,
            "instance_scale": (1 - gate) * instance_weight,
            "open_channels": is_open.nonzero()[:, 0],
            "place": place,
        }.items():
            # Shaped like the feature map, or an exported network would reshape them at every call.
            is_index = name in ("open_channels", "place")
            self.register_buffer(name, value if is_index else value.detach().view(-1, 1, 1).clone())
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a feature map.

        Args:
            x: feature map (N, C, H, W).

        Returns:
            Normalized feature map of the same shape, dtype and memory format.
        """
        if len(self.open_channels) == 0 or (x.shape[2] == 1 and x.shape[3] == 1):
            return torch.addcmul(self.shift, at_least_float32(x), self.scale).to(x.dtype)
        x = dense(x)
        scale, shift = self._mixed_affine(x)
        if not _is_native(x):
            return torch.addcmul(shift, at_least_float32(x), scale).to(x.dtype)
        return native.affine(x, scale.flatten(1), shift.flatten(1))

    def _mixed_affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gathers = self._gathers(x)
        needed = x.index_select(1, self.open_channels) if gathers else x
        if _is_native(needed):
            mean, var = (over_map(values) for values in native.statistics(needed))
        else:
            # Dimensions are kept, or an exported network would reshape at every call.
            mean, var = instance_statistics(at_least_float32(needed), keepdim=True)
        factor = torch.rsqrt(var + self.eps)
        if gathers:
            mean, factor = (part.index_select(1, self.place) for part in (mean, factor))
        scale = self.instance_scale * factor
        return self.mixed_scale + scale, self.mixed_shift - scale * mean

    def _gathers(self, values: Tensor) -> bool:
        """Whether copying the open channels costs less than the statistics of all."""
        share = len(self.open_channels) / len(self.place)
        # In channels_last some of the channels are no block of memory.
        return share <= (0.75 if values.is_contiguous() else 0.25)

    def extra_repr(self) -> str:
        """Channels and open channels, for the printed network."""
        return f"{len(self.place)}, open={len(self.open_channels)}, eps={self.eps}"


def _is_native(x: Tensor) -> bool:
    # The native passes have no derivative of their own.
    differentiates = torch.is_grad_enabled() and x.requires_grad
    return not differentiates and choose_form("auto", x) == "native"
