"""The layers that are compared, and what is done with each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metabin_plugin.norm import BatchInstanceNorm2d, set_norm_form

BATCH_NORM, NAIVE = "nn.BatchNorm2d", "BN + IN + mix"
# As far from both ends as it gets; the work is the same for any gate.
_GATE = 0.5


class NaiveMix(nn.Module):
    """Eq. 1 from PyTorch's own layers: both normalizations, two multiplications, an addition.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.batch = nn.BatchNorm2d(channels)
        self.instance = nn.InstanceNorm2d(channels, affine=True)
        self.gate = nn.Parameter(torch.full((channels,), _GATE))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a feature map (N, C, H, W)."""
        # In half precision a float32 gate would make the products, and the output, float32.
        gate = self.gate.to(x.dtype)[:, None, None]
        return gate * self.batch(x) + (1 - gate) * self.instance(x)


def form_arm(form: str) -> str:
    """Name of the arm that is this plugin's layer in a form."""
    return f"BIN, {form}"


def build_layer(arm: str, channels: int, device: torch.device) -> nn.Module:
    """The layer of an arm, with float32 parameters, in training mode.

    Args:
        arm: ``BATCH_NORM``, ``NAIVE`` or a ``form_arm``.
        channels: C.
        device: where its parameters are.
    """
    if arm == BATCH_NORM:
        return nn.BatchNorm2d(channels).to(device)
    if arm == NAIVE:
        return NaiveMix(channels).to(device)
    layer = BatchInstanceNorm2d(channels)
    set_norm_form(layer, arm.removeprefix("BIN, "))
    nn.init.constant_(layer.gate, _GATE)
    return layer.to(device)


def training_call(layer: nn.Module, x: Tensor, gradient: Tensor) -> Callable[[], object]:
    """Forward and backward, to the gradients of the input and of all parameters.

    Args:
        layer: in training mode.
        x: feature map that requires a gradient.
        gradient: of the layer's output.
    """
    wanted = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), wanted, gradient)


def inference_call(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    """Forward alone, in evaluation mode and without autograd.

    Args:
        layer: is put in evaluation mode.
        x: feature map.
    """
    layer.eval()

    def call() -> Tensor:
        with torch.no_grad():
            return layer(x)

    return call


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Memory that a forward pass keeps for the backward pass, the input included.

    What several operations keep of one tensor counts once.

    Args:
        layer: in training mode.
        x: feature map that requires a gradient.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # The graph has to live until all is counted: memory freed would be used again.
        output = layer(x)
    total = sum(storage.nbytes() for storage in kept.values())
    del output
    return total
