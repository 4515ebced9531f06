"""Batch-instance normalization in its forms, beside nn.BatchNorm2d and the mix of two layers.

Training is a forward and a backward pass, inference a forward pass in evaluation mode. Parameters
are float32 whatever the dtype of the feature map, as under autocast.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from benchmarks.measuring import keep_memory, times_in_turns
from benchmarks.report import Case, Comparison, Results
from benchmarks.training import BACKBONES, Numbers, Shape, add_device, add_images, norm_shapes
from metabin_plugin.norm import NORM_FORMS, BatchInstanceNorm2d, set_norm_form

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


SHAPES: tuple[Shape, ...] = ((80, 96, 64, 32), (80, 192, 32, 16), (80, 48, 128, 64))
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TRAINING, KEPT, INFERENCE = "training", "kept", "inference"
_CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
# The first run compiles kernels on a GPU, and fills the allocator's store.
_WARMUPS = 2
_UNITS = {TRAINING: ("ms", 1e-3), KEPT: ("MiB", 2**20), INFERENCE: ("ms", 1e-3)}
_TITLES = {
    TRAINING: "Training: forward and backward of the layer",
    KEPT: "Memory that the forward pass keeps for the backward pass, the input included",
    INFERENCE: "Inference: forward of the layer in evaluation mode",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own arguments."""
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument(
        "--shapes",
        type=Numbers(",", 4),
        nargs="+",
        default=SHAPES,
        metavar="N,C,H,W",
        help="feature maps (default: three of those at 256x128, batch 80)",
    )
    shapes.add_argument(
        "--network",
        choices=BACKBONES,
        help="instead, all feature maps of a network with --size and --batch, and their sum",
    )
    add_images(parser)
    parser.add_argument("--format", choices=[*FORMATS, "both"], default="both")
    dtypes = ["float32", "bfloat16", "float16"]
    parser.add_argument("--dtype", nargs="+", choices=dtypes, default=dtypes[:1])
    parser.add_argument("--forms", nargs="+", choices=NORM_FORMS, default=["auto", "plain"])
    parser.add_argument("--mode", choices=[TRAINING, INFERENCE, "both"], default="both")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument(
        "--calls", type=int, help="in each repetition (default: 1 on a CPU, 20 on a GPU)"
    )
    parser.add_argument(
        "--clock",
        choices=_CLOCKS,
        default="wall",
        help="processor: time of this process on a CPU, where others are busy too",
    )
    add_device(parser)


def run(args: argparse.Namespace) -> Results:
    """Measure."""
    allocator = keep_memory(args.device)
    weights = dict.fromkeys(args.shapes, 1)
    if args.network:
        weights = norm_shapes(args.network, args.size, args.batch)
    formats = list(FORMATS) if args.format == "both" else [args.format]
    wanted = [TRAINING, KEPT] if args.mode != INFERENCE else []
    wanted += [INFERENCE] if args.mode != TRAINING else []
    device = torch.device(args.device)
    arms = [BATCH_NORM, NAIVE, *map(form_arm, args.forms)]
    calls = args.calls or (20 if device.type == "cuda" else 1)
    work = _Work(arms, args.repetitions, calls, _CLOCKS[args.clock], device)
    summed = bool(args.network) and len(formats) * len(args.dtype) == 1
    tables = {
        name: Comparison(_TITLES[name], *_UNITS[name], arms, [], summed=summed) for name in wanted
    }
    for shape, memory_format, dtype in product(weights, formats, args.dtype):
        measured = work.measure(shape, memory_format, dtype, wanted)
        name = f"{' × '.join(map(str, shape))}, {memory_format}, {dtype}"
        if weights[shape] > 1:
            name += f", {weights[shape]} layers"
        for table, values in measured.items():
            tables[table].cases.append(Case(name, values, weights[shape]))
    return Results(list(tables.values()), [*_notes(tables), allocator])


@dataclass
class _Work:
    """How each case is measured."""

    arms: Sequence[str]
    repetitions: int
    calls: int
    clock: Callable[[], float]
    device: torch.device

    def measure(
        self, shape: Shape, memory_format: str, dtype: str, wanted: Sequence[str]
    ) -> dict[str, Mapping[str, Sequence[float]]]:
        """What is wanted, as values by arm."""
        layers = {arm: build_layer(arm, shape[1], self.device) for arm in self.arms}
        torch.manual_seed(0)
        x = torch.randn(shape).to(self.device, getattr(torch, dtype))
        x = x.contiguous(memory_format=FORMATS[memory_format])
        measured: dict[str, Mapping[str, Sequence[float]]] = {}
        if TRAINING in wanted:
            measured[TRAINING] = self._training(layers, x)
            measured[KEPT] = {arm: [saved_bytes(layer, x)] for arm, layer in layers.items()}
        if INFERENCE in wanted:
            measured[INFERENCE] = self._inference(layers, x.detach())
        gc.collect()
        return measured

    def _training(self, layers: Mapping[str, nn.Module], x: Tensor) -> dict[str, list[float]]:
        gradient = torch.randn_like(x)
        x.requires_grad_()
        return self._times({arm: training_call(layers[arm], x, gradient) for arm in self.arms})

    def _inference(self, layers: Mapping[str, nn.Module], x: Tensor) -> dict[str, list[float]]:
        return self._times({arm: inference_call(layers[arm], x) for arm in self.arms})

    def _times(self, arms: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
        how = {"warmups": _WARMUPS, "calls": self.calls}
        return times_in_turns(arms, self.repetitions, **how, clock=self.clock)


def _notes(tables: Mapping[str, Comparison]) -> list[str]:
    arm = form_arm("auto")
    if TRAINING not in tables or arm not in tables[TRAINING].arms:
        return []
    gains = tables[TRAINING].ratios(NAIVE, arm)
    return [f"{arm}, is {min(gains):.1f} to {max(gains):.1f} times as fast as {NAIVE} in training."]
