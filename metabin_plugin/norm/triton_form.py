"""BIN on a GPU: operators of PyTorch's, computed by the Triton kernels of ``triton_kernels.py``.

``torch.compile``, ``torch.export`` and autocast see ``metabin::batch_instance_norm`` and, for its
gradient, ``metabin::batch_instance_norm_backward``. The second derivative is that of the plain
formula.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabin_plugin.norm.formula import FewPasses, Parameters, dense

_HAS_TRITON = importlib.util.find_spec("triton") is not None

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Values of a tile, which a program holds in registers; of the channels that lie together those
# that fill a line of the cache.
_TILE = 2048
_CHANNELS = 64
# Values that a thread reads at once, at most: 16 bytes of half precision.
_VECTOR = 8
# Programs that fill a large GPU; rows are split into chunks until there are as many.
_PROGRAMS = 1024
# Tiles of a row, at least, that are worth a program of their own.
_TILES_OF_CHUNK = 4
# Channels and samples that a program takes between the passes over the map.
_FEW_CHANNELS = 16
_SAMPLES = 64
_WARPS = 4


@torch.compiler.assume_constant_result
def is_available(device: torch.device) -> bool:
    """Whether the kernels run on a device: a GPU that Triton compiles for, or its interpreter."""
    if not _HAS_TRITON:
        return False
    if device.type == "cuda":
        return not fault_on(device)
    return device.type == "cpu" and _interprets()


@functools.cache
def fault_on(device: torch.device) -> str:
    """Why Triton, where it is installed, compiles nothing for a GPU; "" for no such reason.

    It needs a C compiler with Python's headers, a GPU that it knows, and a folder for its cache. A
    small kernel is compiled once.
    """
    if device.type != "cuda" or not _HAS_TRITON or _interprets():
        return ""
    try:
        with torch.cuda.device(device):
            layout = {"LAST": False, "V": 1, "R": 1, "P": 1, "num_warps": _WARPS}
            _kernels().normalize.warmup(*[torch.float32] * 3, 1, 1, grid=(1,), **layout)
    # Whatever a missing or unfit compiler raises.
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


def triton_batch_instance_norm(
    x: Tensor,
    parameters: Parameters,
    running: tuple[Tensor, Tensor] | None,
    counter: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """``batch_instance_norm``, the running statistics and the counter of batches included.

    The map is of one of ``DTYPES``. Of its size only ``x`` is kept for the gradient; a copy, if it
    is in no memory format.
    """
    x = dense(x)
    mean, var = running or (None, None)
    y: Tensor
    if not training and not torch.is_grad_enabled():
        y = _evaluation(x, *parameters, mean, var, eps)
    else:
        y, *_ = _training(x, *parameters, mean, var, counter, training, momentum, eps)
    return y


class _Grid(NamedTuple):
    """How programs share a map, in the words of ``triton_kernels.py``."""

    last: bool
    rows: int
    pixels: int
    blocks: int
    # Rows and pixels.
    tile: tuple[int, int]
    chunk: int

    @property
    def chunks(self) -> int:
        return -(-self.pixels // self.chunk)

    def launch(self, kernel: Any, width: int, *arguments: Any) -> None:
        """Launch a kernel over the map; a program takes ``width`` pixels of each of its rows."""
        rows, pixels = self.tile
        programs = -(-self.rows // rows), -(-self.pixels // width), self.blocks
        together = self.rows if self.last else self.pixels
        # The largest power of two that divides it.
        vector = min(together & -together, _VECTOR)
        layout = {"LAST": self.last, "V": vector, "R": rows, "P": pixels, "num_warps": _WARPS}
        kernel[programs](*arguments, **layout)


def grid_of(x: Tensor) -> _Grid:
    """How programs share a dense map (N, C, H, W)."""
    samples, channels, height, width = x.shape
    pixels = height * width
    last = not x.is_contiguous()
    if last:
        rows, blocks = channels, samples
        tile_rows = min(_CHANNELS, _power_of_2(channels))
        tile = tile_rows, min(_TILE // tile_rows, _power_of_2(pixels))
    else:
        rows, blocks = samples * channels, 1
        tile_pixels = min(_TILE, _power_of_2(pixels))
        tile = min(_TILE // tile_pixels, _power_of_2(rows)), tile_pixels
    wanted = -(-_PROGRAMS // (-(-rows // tile[0]) * blocks))
    chunks = max(1, min(wanted, pixels // (tile[1] * _TILES_OF_CHUNK)))
    # Whole tiles, so that a chunk begins where a line of the cache does.
    chunk = -(-pixels // (chunks * tile[1])) * tile[1]
    return _Grid(last, rows, pixels, blocks, tile, min(chunk, pixels))


def _forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The normalized map, statistics of the instances (2, N, C) and for the batch half (2, C)."""
    *values, training, momentum, eps = rest
    kernels, grid = _kernels(), grid_of(x)
    y, instance, batch = _fake_forward(x)
    with torch.cuda.device_of(x):
        outputs = instance, batch, _vectors(x, 2)
        numbers = grid.pixels, grid.chunk, grid.chunks, momentum, eps
        arguments = _statistics(x, grid), *outputs, *values, *numbers
        _launch_between(kernels.coefficients, x, training, *arguments)
        grid.launch(kernels.normalize, grid.tile[1], x, y, outputs[-1], grid.rows, grid.pixels)
    return y, instance, batch


def _evaluate(x: Tensor, *rest: Any) -> Tensor:
    *values, eps = rest
    grid, y = grid_of(x), torch.empty_like(x)
    sizes = grid.rows, grid.pixels, x.shape[1], grid.chunk, grid.chunks
    with torch.cuda.device_of(x):
        of_chunks = _statistics(x, grid)
        grid.launch(_kernels().infer, grid.tile[1], x, y, of_chunks, *values, *sizes, eps)
    return y


def _backward(
    gradient: Tensor, x: Tensor, instance: Tensor, batch: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    """Gradients of x, empty where it is not needed, and of the parameters (5, C)."""
    *parameters, training, eps, needs_x = rest
    kernels, grid, maps = _kernels(), grid_of(x), (gradient, x)
    of_x, of_parameters = _fake_backward(*maps, needs_x)
    sizes = grid.rows, grid.pixels
    with torch.cuda.device_of(x):
        of_chunks = _vectors(x, 2, grid.chunks)
        grid.launch(kernels.sums, grid.chunk, *maps, instance, of_chunks, *sizes, grid.chunk)
        abc = _vectors(x, 3) if needs_x else None
        arguments = of_chunks, instance, batch, *parameters, of_parameters, abc
        numbers = grid.pixels, grid.chunks, eps
        _launch_between(kernels.gradients, x, training, *arguments, *numbers)
        if needs_x:
            grid.launch(kernels.combination, grid.tile[1], *maps, of_x, abc, *sizes)
    return of_x, of_parameters


def _statistics(x: Tensor, grid: _Grid) -> Tensor:
    of_chunks = _vectors(x, 2, grid.chunks)
    sizes = grid.rows, grid.pixels, grid.chunk
    grid.launch(_kernels().statistics, grid.chunk, x, of_chunks, *sizes)
    return of_chunks


def _launch_between(kernel: Any, x: Tensor, training: bool, *arguments: Any) -> None:
    """Launch a kernel between the passes over the map."""
    samples, channels = x.shape[:2]
    programs = (-(-channels // _FEW_CHANNELS),)
    layout = {"N": min(_SAMPLES, _power_of_2(samples)), "C": _FEW_CHANNELS, "num_warps": _WARPS}
    kernel[programs](*arguments, samples, channels, TRAINING=training, **layout)


def _vectors(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty((*shape, *x.shape[:2]), dtype=torch.float32)


def _power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _kernels() -> Any:
    # Importing Triton takes a moment, and on many machines it is not there.
    from metabin_plugin.norm import triton_kernels

    return triton_kernels


def _fake_forward(x: Tensor, *_rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    batch = x.new_empty((2, x.shape[1]), dtype=torch.float32)
    return torch.empty_like(x), _vectors(x, 2), batch


def _fake_backward(_gradient: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    of_x = torch.empty_like(x) if rest[-1] else x.new_empty(0)
    return of_x, x.new_empty((len(Parameters._fields), x.shape[1]), dtype=torch.float32)


def _differentiable(x: Tensor, *rest: Any) -> Any:
    return FewPasses.apply(_below_autograd, _derivative, x, *rest)


def _below_autograd(*arguments: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return _training(*arguments)


# The operator changes the running statistics, as batch normalization's own does, so its gradient
# is registered with the dispatcher: torch.library.register_autograd takes functions alone.
_PARAMETERS = ", ".join(f"Tensor {name}" for name in Parameters._fields)
_LIBRARY = torch.library.Library("metabin", "FRAGMENT")
for _schema, _function, _fake in (
    (
        f"batch_instance_norm(Tensor x, {_PARAMETERS}, Tensor(a!)? running_mean, "
        "Tensor(b!)? running_var, Tensor(c!)? num_batches_tracked, bool training, float momentum, "
        "float eps) -> (Tensor, Tensor, Tensor)",
        _forward,
        _fake_forward,
    ),
    (
        f"batch_instance_norm_inference(Tensor x, {_PARAMETERS}, Tensor running_mean, "
        "Tensor running_var, float eps) -> Tensor",
        _evaluate,
        lambda x, *_rest: torch.empty_like(x),
    ),
    (
        "batch_instance_norm_backward(Tensor gradient, Tensor x, Tensor instance, Tensor batch, "
        f"{_PARAMETERS}, bool training, float eps, bool needs_x) -> (Tensor, Tensor)",
        _backward,
        _fake_backward,
    ),
):
    _name = _LIBRARY.define(_schema)
    _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"metabin::{_name}", _fake, lib=_LIBRARY)
_LIBRARY.impl("batch_instance_norm", _differentiable, "Autograd")
_training = torch.ops.metabin.batch_instance_norm.default
_evaluation = torch.ops.metabin.batch_instance_norm_inference.default
_derivative = torch.ops.metabin.batch_instance_norm_backward.default
