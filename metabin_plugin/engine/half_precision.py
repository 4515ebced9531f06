"""Half precision: what it needs, and whether this device's convolutions are right in it."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from torch import Tensor, nn

from metabin_plugin.compat.training import autocast_dtype
from metabin_plugin.engine.network_options import uncompiled
from metabin_plugin.errors import ConfigError

logger = logging.getLogger(__name__)

# Sound kernels round once, which is half an epsilon of the largest value at most.
_ROUNDINGS = 4
# Kernels are chosen by the size of the map above all, but by the number of images too: as many of
# them as the multiply-adds allow. Small maps, which are what goes wrong, get them all.
_MOST_IMAGES, _MULTIPLY_ADDS = 16, 2**23


def check_convolutions_once(cfg: CfgNode, network: nn.Module) -> None:
    """Let the first batch of a training with mixed precision check the device's convolutions.

    The batch's forward pass raises what ``check_convolutions`` does.

    Args:
        cfg: a checked config.
        network: not wrapped for several processes.
    """

    def check(_network: nn.Module, inputs: tuple[Any, ...]) -> None:
        if network.training:
            handle.remove()
            check_convolutions(cfg, network, inputs[0]["images"])

    # Before those that prepare the training's own pass, which mixing styles begins with.
    handle = network.register_forward_pre_hook(check, prepend=True)


def check_convolutions(cfg: CfgNode, network: nn.Module, images: torch.Tensor) -> None:
    """Compare each kind of convolution that a network has with float32; under autocast.

    PyTorch's half-precision kernels are wrong on some devices, for maps of a few pixels. Weights,
    statistics, random states and the modes of layers stay as they are.

    Args:
        cfg: a checked config.
        network: not wrapped for several processes.
        images: a batch of the training.

    Raises:
        ConfigError: one of them differs by more than rounding.
    """
    began = time.perf_counter()
    device = next(network.parameters()).device
    convolutions = _in_evaluation(cfg, network, images[:1])
    faults = _faults(convolutions, len(images), device, cfg.SOLVER.AMP.DTYPE)
    if not faults:
        took = 1000 * (time.perf_counter() - began)
        logger.info(
            "Half precision: %d kinds of convolution are right (%.0f ms)", len(convolutions), took
        )
        return
    convolution, fault = next(iter(faults.items()))
    kinds = f" (one of {len(faults)} kinds)" if len(faults) > 1 else ""
    remedies = ["set SOLVER.AMP.ENABLED False"]
    other = _other_half_type(cfg)
    if other and not _faults(faults, len(images), device, other):
        remedies.insert(0, f"set SOLVER.AMP.DTYPE {other}")
    key = "INPUT.CROP.SIZE" if cfg.INPUT.CROP.ENABLED else "INPUT.SIZE_TRAIN"
    height, width = images.shape[2:]
    remedies.append(f"try larger images than {height}x{width} ({key})")
    dtype = str(autocast_dtype(device, cfg.SOLVER.AMP.DTYPE)).removeprefix("torch.")
    raise ConfigError(
        f"SOLVER.AMP.ENABLED is True, but this {device.type} computes convolutions wrongly in "
        f"{dtype}: layer {convolutions[convolution]}, a {convolution}{kinds}, {fault}; "
        f"{', or '.join(remedies)}"
    )


def _other_half_type(cfg: CfgNode) -> str | None:
    """The value of ``SOLVER.AMP.DTYPE`` that would make of this run another; None for none."""
    device = torch.device(cfg.MODEL.DEVICE)
    if autocast_dtype(device, cfg.SOLVER.AMP.DTYPE) is torch.float16:
        return "bfloat16"
    # MLDGHook has no loss scale.
    can_scale = device.type == "cuda" and "MLDGHook" not in cfg.METABIN.HOOKS
    return "float16" if can_scale else None


def _in_evaluation(cfg: CfgNode, network: nn.Module, image: torch.Tensor) -> dict[Convolution, str]:
    """The convolutions of a network in half precision, by a pass that leaves statistics alone."""
    modes = [(module, module.training) for module in network.modules()]

    def forward() -> object:
        # Without the hooks of a training's forward pass, in which this one takes place.
        return network.eval().forward({"images": image})

    try:
        with torch.enable_grad():
            return convolutions_of(
                network, lambda: uncompiled(forward) if cfg.METABIN.COMPILE else forward()
            )
    finally:
        for module, training in modes:
            module.training = training


def _faults(
    convolutions: Collection[Convolution], images: int, device: torch.device, name: str
) -> dict[Convolution, str]:
    dtype = autocast_dtype(device, name)
    found = {kind: fault_of(kind, images, device, dtype) for kind in convolutions}
    return {kind: fault for kind, fault in found.items() if fault}


@dataclass(frozen=True)
class Convolution:
    """What a device chooses a kernel by.

    Attributes:
        input: channels, height and width of the map that goes in.
        output: channels, height and width of the map that comes out.
        kernel: height and width.
        stride: vertical and horizontal.
        padding: vertical and horizontal, or "same" or "valid".
        dilation: vertical and horizontal.
        groups: of channels.
        channels_last: whether the map lies in memory pixel by pixel.
        input_gradient: whether training needs the gradient of the map that goes in.
    """

    input: tuple[int, ...]
    output: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    channels_last: bool
    input_gradient: bool

    def __str__(self) -> str:
        (height, width), (down, right) = self.input[1:], self.stride
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return (
            f"{self.kernel[0]}x{self.kernel[1]} convolution of {self.input[0]} to "
            f"{self.output[0]} channels, stride {down if down == right else self.stride}{groups}, "
            f"on maps of {height}x{width}"
        )


def convolutions_of(network: nn.Module, forward: Callable[[], object]) -> dict[Convolution, str]:
    """The different convolutions of a forward pass that autocast computes in half precision.

    Args:
        network: its `nn.Conv2d` layers are watched; it is left as it was.
        forward: runs the network on one image.

    Returns:
        Convolution to the name of the first layer that has it, in the order of execution.
    """
    found: dict[Convolution, str] = {}

    def note(layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor, name: str) -> None:
        (x,) = inputs
        if torch.is_autocast_enabled(x.device.type):
            found.setdefault(_kind(layer, x, output), name)

    with ExitStack() as handles:
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d):
                hook = functools.partial(note, name=name)
                handles.callback(layer.register_forward_hook(hook).remove)
        forward()
    return found


def _kind(layer: nn.Conv2d, x: Tensor, output: Tensor) -> Convolution:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return Convolution(
        input=tuple(x.shape[1:]),
        output=tuple(output.shape[1:]),
        kernel=layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        channels_last=last,
        input_gradient=x.requires_grad,
    )


@functools.cache
def fault_of(
    convolution: Convolution, images: int, device: torch.device, dtype: torch.dtype
) -> str | None:
    """Compare a convolution in half precision, and its gradients, with the same in float32.

    On at most 16 images of noise, and on fewer where the map is large. Each combination is computed
    once in a process. Random states are left as they are.

    Args:
        convolution: what to compute.
        images: number of images in a batch of the training.
        device: where.
        dtype: `torch.float16` or `torch.bfloat16`.

    Returns:
        What differs by more than rounding, and by how much; None if nothing does.
    """
    work = math.prod(convolution.output) * math.prod(convolution.kernel)
    work *= convolution.input[0] // convolution.groups
    count = min(images, _MOST_IMAGES, max(1, _MULTIPLY_ADDS // work))
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int) -> Tensor:
        # Rounded here, so that both precisions compute with the same values.
        return torch.randn(size, generator=generator).to(dtype).to(device)

    x = noise(count, *convolution.input)
    if convolution.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    channels = convolution.input[0] // convolution.groups
    weight = noise(convolution.output[0], channels, *convolution.kernel)
    gradient = noise(count, *convolution.output)
    with torch.autocast(device.type, enabled=False), torch.enable_grad():
        half = _passes(convolution, x, weight, gradient)
        exact = _passes(convolution, x.float(), weight.float(), gradient.float())
        for (what, computed), (_, expected) in zip(half, exact, strict=True):
            error = ((computed.float() - expected).abs().max() / expected.abs().max()).item()
            # Written so that a NaN does not pass.
            if not error <= _ROUNDINGS * torch.finfo(dtype).eps:
                return f"{what} off by {error:.2g} of the largest value"
    return None


def _passes(
    convolution: Convolution, x: Tensor, weight: Tensor, gradient: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Output and gradients of a convolution, each with its name."""
    settings: dict[str, Any] = {
        "stride": convolution.stride,
        "padding": convolution.padding,
        "dilation": convolution.dilation,
        "groups": convolution.groups,
    }
    x, weight = x.detach().requires_grad_(convolution.input_gradient), weight.requires_grad_()
    output = F.conv2d(x, weight, **settings)
    yield "output", output.detach()
    if convolution.input_gradient:
        inputs, weights = torch.autograd.grad(output, (x, weight), gradient)
        yield "input gradient", inputs
    else:
        (weights,) = torch.autograd.grad(output, weight, gradient)
    yield "weight gradient", weights
