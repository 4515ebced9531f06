"""BIN on a GPU: one operator of PyTorch's, computed by the Triton kernels of ``triton_kernels.py``.

``torch.compile``, ``torch.export`` and autocast see ``metabin::batch_instance_norm`` and, for its
gradient, ``metabin::batch_instance_norm_backward``. The second derivative is that of the plain
formula.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabin_plugin.norm.formula import Parameters, plain_gradient
from metabin_plugin.norm.native import dense, memory_format_of

_HAS_TRITON = importlib.util.find_spec("triton") is not None

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Values of a tile, which a program holds in registers; of the channels that lie together those
# that fill a line of the cache.
_TILE = 2048
_CHANNELS = 64
# Programs that fill a large GPU; rows are split into chunks until there are as many.
_PROGRAMS = 1024
# Tiles of a row, at least, that are worth a program of their own.
_TILES_OF_CHUNK = 4
# Channels and samples that a program takes between the passes over the map.
_FEW_CHANNELS = 16
_SAMPLES = 64
_WARPS = 4


def is_available(device: torch.device) -> bool:
    """Whether the kernels run on a device: a GPU that Triton compiles for, or its interpreter.

    Args:
        device: of the feature map.
    """
    if not _HAS_TRITON:
        return False
    return device.type == "cuda" or (device.type == "cpu" and _interprets())


def triton_batch_instance_norm(
    x: Tensor,
    parameters: Parameters,
    running: tuple[Tensor, Tensor] | None,
    num_batches_tracked: Tensor | None = None,
    *,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Eq. 1; of the size of the map, only ``x`` is kept for the gradient.

    Args:
        x: feature map (N, C, H, W) of one of ``DTYPES``; copied if it is in no memory format.
        parameters: of the layer.
        running: mean and variance (C,), moved in training and used in evaluation.
        num_batches_tracked: int64 scalar that is increased by 1.
        training: whether the batch half takes the statistics of the batch.
        momentum: factor of the new value in the running statistics.
        eps: added to both variances before the square root.
    """
    x = dense(x)
    mean, var = running or (None, None)
    if not training and not torch.is_grad_enabled():
        return _evaluation(x, *parameters, mean, var, eps)
    y: Tensor = _training(x, *parameters, mean, var, num_batches_tracked, training, momentum, eps)[
        0
    ]
    return y


class _Grid(NamedTuple):
    """How programs share a map.

    Attributes:
        last: whether channels lie together.
        rows: of a block.
        pixels: of a row.
        blocks: 1, or the number of samples.
        tile: rows and pixels that a program takes at once.
        chunk: pixels of a chunk.
    """

    last: bool
    rows: int
    pixels: int
    blocks: int
    tile: tuple[int, int]
    chunk: int

    @property
    def chunks(self) -> int:
        return -(-self.pixels // self.chunk)

    @property
    def all_rows(self) -> int:
        return self.rows * self.blocks

    @property
    def by_chunks(self) -> tuple[int, int, int]:
        return -(-self.rows // self.tile[0]), self.chunks, self.blocks

    @property
    def by_tiles(self) -> tuple[int, int, int]:
        return -(-self.rows // self.tile[0]), -(-self.pixels // self.tile[1]), self.blocks

    @property
    def layout(self) -> dict[str, Any]:
        rows, pixels = self.tile
        return {"LAST": self.last, "R": rows, "P": pixels, "num_warps": _WARPS}


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


def _statistics(x: Tensor, grid: _Grid) -> tuple[Tensor, Tensor]:
    kernels = _kernels()
    mean, var = _vectors(x, 2, grid.chunks)
    kernels.statistics[grid.by_chunks](
        x, mean, var, grid.rows, grid.pixels, grid.chunk, grid.all_rows, **grid.layout
    )
    return mean, var


def _forward(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    instance_weight: Tensor,
    instance_bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kernels, grid = _kernels(), grid_of(x)
    samples, channels = x.shape[:2]
    with _on(x):
        means, variances = _statistics(x, grid)
        # Outputs of an operator are not views of one another.
        mean, var = (x.new_empty((samples, channels), dtype=torch.float32) for _ in range(2))
        scale, offset = _vectors(x, 2)
        batch = x.new_empty((2, channels), dtype=torch.float32)
        kernels.coefficients[(-(-channels // _FEW_CHANNELS),)](
            means,
            variances,
            gate,
            weight,
            bias,
            instance_weight,
            instance_bias,
            running_mean,
            running_var,
            num_batches_tracked,
            mean,
            var,
            batch,
            scale,
            offset,
            samples,
            channels,
            grid.pixels,
            grid.chunk,
            grid.chunks,
            momentum,
            eps,
            TRAINING=training,
            **_between(samples),
        )
        y = torch.empty_like(x)
        kernels.affine[grid.by_tiles](
            x, y, mean, scale, offset, grid.rows, grid.pixels, **grid.layout
        )
    return y, mean, var, batch


def _evaluate(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    instance_weight: Tensor,
    instance_bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    eps: float,
) -> Tensor:
    kernels, grid = _kernels(), grid_of(x)
    with _on(x):
        means, variances = _statistics(x, grid)
        y = torch.empty_like(x)
        kernels.evaluation[grid.by_tiles](
            x,
            y,
            means,
            variances,
            gate,
            weight,
            bias,
            instance_weight,
            instance_bias,
            running_mean,
            running_var,
            grid.rows,
            x.shape[1],
            grid.pixels,
            grid.chunk,
            grid.chunks,
            grid.all_rows,
            eps,
            **grid.layout,
        )
    return y


def _backward(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    batch: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    instance_weight: Tensor,
    instance_bias: Tensor,
    training: bool,
    eps: float,
    needed: list[bool],
) -> list[Tensor]:
    """Those gradients, of x and the parameters, that are needed."""
    kernels, grid = _kernels(), grid_of(x)
    samples, channels = x.shape[:2]
    parameters = (gate, weight, bias, instance_weight, instance_bias)
    with _on(x):
        totals, products = _vectors(x, 2, grid.chunks)
        kernels.sums[grid.by_chunks](
            gradient,
            x,
            mean,
            totals,
            products,
            grid.rows,
            grid.pixels,
            grid.chunk,
            grid.all_rows,
            **grid.layout,
        )
        a, b, c = _vectors(x, 3) if needed[0] else (None, None, None)
        found = [
            torch.empty_like(p) if is_needed else None
            for p, is_needed in zip(parameters, needed[1:], strict=True)
        ]
        kernels.gradients[(-(-channels // _FEW_CHANNELS),)](
            totals,
            products,
            mean,
            var,
            batch,
            *parameters,
            a,
            b,
            c,
            *found,
            samples,
            channels,
            grid.pixels,
            grid.chunks,
            eps,
            TRAINING=training,
            **_between(samples),
        )
        of_x = None
        if needed[0]:
            of_x = torch.empty_like(x)
            kernels.combination[grid.by_tiles](
                gradient, x, of_x, mean, a, b, c, grid.rows, grid.pixels, **grid.layout
            )
    return [gradient for gradient in (of_x, *found) if gradient is not None]


def _vectors(x: Tensor, count: int, chunks: int = 1) -> tuple[Tensor, ...]:
    shape = x.shape[:2] if chunks == 1 else (chunks, *x.shape[:2])
    return x.new_empty((count, *shape), dtype=torch.float32).unbind()


def _between(samples: int) -> dict[str, Any]:
    return {"N": min(_SAMPLES, _power_of_2(samples)), "C": _FEW_CHANNELS, "num_warps": _WARPS}


def _on(x: Tensor) -> Any:
    # Triton launches on the current device.
    return torch.cuda.device(x.device) if x.device.type == "cuda" else torch.no_grad()


def _power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


@torch.compiler.assume_constant_result
def _interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _kernels() -> Any:
    # Importing Triton takes a moment, and on many machines it is not there.
    from metabin_plugin.norm import triton_kernels

    return triton_kernels


# The operator changes the running statistics, as batch normalization's own does, so its gradient
# is registered with the dispatcher: torch.library.register_autograd takes functions alone.
_ARGUMENTS = (
    "Tensor x, Tensor gate, Tensor weight, Tensor bias, Tensor instance_weight, "
    "Tensor instance_bias"
)
_LIBRARY = torch.library.Library("metabin", "FRAGMENT")
_LIBRARY.define(
    f"batch_instance_norm({_ARGUMENTS}, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
    "Tensor(c!)? num_batches_tracked, bool training, float momentum, float eps) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    f"batch_instance_norm_inference({_ARGUMENTS}, Tensor running_mean, Tensor running_var, "
    "float eps) -> Tensor"
)
_LIBRARY.define(
    "batch_instance_norm_backward(Tensor gradient, Tensor x, Tensor mean, Tensor var, "
    "Tensor batch, Tensor gate, Tensor weight, Tensor bias, Tensor instance_weight, "
    "Tensor instance_bias, bool training, float eps, bool[6] needed) -> Tensor[]"
)
_training = torch.ops.metabin.batch_instance_norm.default
_evaluation = torch.ops.metabin.batch_instance_norm_inference.default
_derivative = torch.ops.metabin.batch_instance_norm_backward.default


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate: Tensor,
        weight: Tensor,
        bias: Tensor,
        instance_weight: Tensor,
        instance_bias: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        num_batches_tracked: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        parameters = (gate, weight, bias, instance_weight, instance_bias)
        with torch._C._AutoDispatchBelowAutograd():
            y, mean, var, batch = _training(
                x,
                *parameters,
                running_mean,
                running_var,
                num_batches_tracked,
                training,
                momentum,
                eps,
            )
        ctx.save_for_backward(x, mean, var, batch, *parameters)
        ctx.training, ctx.eps = training, eps
        ctx.mark_non_differentiable(mean, var, batch)
        # Else PyTorch fills their gradients with zeros, a launch each.
        ctx.set_materialize_grads(False)
        return y, mean, var, batch

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor | None, *_of_statistics: None
    ) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * len(ctx.needs_input_grad)
        x, mean, var, batch, *inputs = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[:6])
        if torch.is_grad_enabled():
            running = None if ctx.training else (batch[0], batch[1])
            parameters = Parameters(*inputs)
            with torch.autocast(x.device.type, enabled=False):
                of_all = plain_gradient(gradient, x, parameters, running, ctx.eps, tuple(needed))
        else:
            # Of a sum, say, it is one value expanded.
            gradient = gradient.contiguous(memory_format=memory_format_of(x))
            found = iter(
                _derivative(gradient, x, mean, var, batch, *inputs, ctx.training, ctx.eps, needed)
            )
            of_all = tuple(next(found) if is_needed else None for is_needed in needed)
        return *of_all, *[None] * (len(ctx.needs_input_grad) - len(of_all))


for _name, _function in {
    "batch_instance_norm": _forward,
    "batch_instance_norm_inference": _evaluate,
    "batch_instance_norm_backward": _backward,
}.items():
    _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
_LIBRARY.impl("batch_instance_norm", _Differentiable.apply, "Autograd")


@torch.library.register_fake("metabin::batch_instance_norm", lib=_LIBRARY)
def _fake_forward(x: Tensor, *_rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mean, var = (x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x), mean, var, x.new_empty((2, x.shape[1]), dtype=torch.float32)


@torch.library.register_fake("metabin::batch_instance_norm_inference", lib=_LIBRARY)
def _fake_evaluate(x: Tensor, *_rest: Any) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("metabin::batch_instance_norm_backward", lib=_LIBRARY)
def _fake_backward(
    _gradient: Tensor,
    x: Tensor,
    _mean: Tensor,
    _var: Tensor,
    _batch: Tensor,
    *rest: Any,
) -> list[Tensor]:
    *parameters, _training, _eps, needed = rest
    inputs = (x, *parameters)
    return [torch.empty_like(t) for t, is_needed in zip(inputs, needed, strict=True) if is_needed]
