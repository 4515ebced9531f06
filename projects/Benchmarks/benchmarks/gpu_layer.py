"""BIN beside nn.BatchNorm2d and the mix, called from Python and replayed as a CUDA graph."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.gpu_network import NOT_MEASURED, Work
from benchmarks.layer import BATCH_NORM, FORMATS, NAIVE, build_layer, form_arm, training_call
from benchmarks.measuring import time_once
from benchmarks.parts import Rows
from benchmarks.setting import Shape
from metabin_plugin.engine.graphs import CudaRecorder
from metabin_plugin.norm import batch_instance_norm

_BIN = form_arm("auto")
# Channels, and by how much the map is smaller than the images: of both networks of the paper.
_MAPS = ((96, 4), (192, 8), (48, 2), (512, 16), (2048, 16))
_CALLS = 20


def layers(rows: Rows, work: Work, _networks: Sequence[str]) -> None:
    """Forward and backward of each layer: milliseconds of BN, and ratios to it."""
    dtypes = ("float16", "float32") if work.on_gpu else ("float32",)
    for dtype in dtypes:
        for memory_format in ("channels_last", "contiguous"):
            for channels, smaller in _MAPS:
                shape = (work.batch, channels, *(side // smaller for side in work.size))
                _layer(rows, work, shape, memory_format, dtype)


def _layer(rows: Rows, work: Work, shape: Shape, memory_format: str, dtype: str) -> None:
    name = f"{','.join(map(str, shape))} {memory_format} {dtype}"
    torch.manual_seed(0)
    x = torch.randn(shape, device=work.device, dtype=getattr(torch, dtype))
    x = x.contiguous(memory_format=FORMATS[memory_format])
    gradient = torch.randn_like(x)
    x.requires_grad_()
    called, replayed = {}, {}
    for arm in (BATCH_NORM, _BIN, NAIVE):
        layer = build_layer(arm, shape[1], torch.device(work.device))
        call = training_call(layer, x, gradient)
        called[arm] = _median(call)
        if work.on_gpu:
            replayed[arm] = _median(_replay(call, x.device))
    for how, times in (("called", called), ("replayed", replayed)):
        if not times:
            rows.write(f"{name}, {how}", bn_ms=NOT_MEASURED)
            continue
        base = times[BATCH_NORM]
        rows.write(
            f"{name}, {how}", bn_ms=1e3 * base, bin=times[_BIN] / base, mix=times[NAIVE] / base
        )


def _replay(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    recorder = CudaRecorder(device)
    for _ in range(3):
        recorder.apart(call)
    kept, replay = recorder.record(call)

    def run() -> object:
        replay()
        # Outputs of a graph have to stay.
        return kept

    return run


def _median(call: Callable[[], object]) -> float:
    time_once(call, 3)
    return statistics.median(time_once(call, _CALLS) for _ in range(5))


def errors(rows: Rows, work: Work) -> None:
    """Errors of the layer's output and gradients beside the formula in float64."""
    dtypes = (torch.float32, torch.float16) if work.on_gpu else (torch.float32,)
    for dtype in dtypes:
        for memory_format, channels, smaller in (("channels_last", 96, 8), ("contiguous", 512, 16)):
            shape = (work.batch, channels, *(side // smaller for side in work.size))
            torch.manual_seed(0)
            x = torch.randn(shape, device=work.device).to(dtype)
            x = x.contiguous(memory_format=FORMATS[memory_format])
            inputs = [x, *torch.rand(5, channels, device=work.device)]
            incoming = torch.randn_like(x)
            found, exact = (
                _results([t.detach().to(kind).requires_grad_() for t in inputs], incoming, form)
                for kind, form in ((None, "auto"), (torch.float64, "plain"))
            )
            named = zip(("y", "x", "gate", "weight"), found, exact, strict=False)
            name = f"layer, {','.join(map(str, shape))} {memory_format} {str(dtype)[6:]}"
            rows.write(name, **{key: relative(one, other) for key, one, other in named})


def _results(inputs: list[Tensor], incoming: Tensor, form: str) -> list[Tensor]:
    y = batch_instance_norm(*inputs, form=form)
    return [y, *torch.autograd.grad(y, inputs, incoming.to(y.dtype))]


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, beside the largest value; values below 1e-3 count as that."""
    expected = expected.detach().double().cpu()
    difference = (found.detach().double().cpu() - expected).abs().max()
    return float(difference / expected.abs().max().clamp(min=1e-3))
