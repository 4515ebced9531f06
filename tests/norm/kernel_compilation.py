"""Compiles the kernels of BIN for GPUs, without one: ``python kernel_compilation.py [--all]``.

It prints a line for each fault and exits with 1 if there is one: a kernel that does not compile,
that reads a map of half precision value by value, where its size lets it read several at once, or
that is compiled again where a layer's parameters lie elsewhere in memory. The variants are those
that the two networks of the paper launch, in training, in the meta step and in evaluation: with
``--all`` on every GPU, else one of each kernel, types of its arguments and size of what it reads at
once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from metabin_plugin.norm import triton_form, triton_kernels

# Channels, height and width of norm layers of MobileNetV2 x1.4 and ResNet-50 at 256 x 128.
SHAPES = (
    (44, 128, 64),
    (22, 128, 64),
    (64, 128, 64),
    (132, 64, 32),
    (33, 64, 32),
    (256, 64, 32),
    (198, 32, 16),
    (128, 32, 16),
    (537, 16, 8),
    (1792, 16, 8),
    (2048, 16, 8),
)
# The base step's batch, and the two of the meta step.
BATCHES = (80, 48, 32)
CAPABILITIES = (80, 90)
_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# name, types, constants, whole numbers that are multiples of 16; enough to compile it again.
Variant = tuple[str, tuple[tuple[str, str], ...], tuple[tuple[str, Any], ...], tuple[int, ...], int]


class Recorder:
    """Stands in for ``triton_kernels`` and keeps what would be launched."""

    def __init__(self) -> None:
        self.variants: dict[Variant, None] = {}

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(triton_kernels, name)

        class Launcher:
            def __getitem__(_self, _grid: object) -> Callable[..., None]:
                return lambda *args, **kwargs: self._add(name, kernel, args, kwargs)

        return Launcher()

    def _add(self, name: str, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        warps = kwargs.pop("num_warps")
        values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        types, constants, aligned = [], [], []
        for place, argument in enumerate(kernel.arg_names):
            value = values[argument]
            if isinstance(value, Tensor):
                types.append((argument, _TYPES[value.dtype]))
                where = value.storage_offset() * value.element_size()
                if where % 16 == 0 and not kernel.params[place].do_not_specialize:
                    aligned.append(place)
            elif kernel.params[place].is_constexpr or value is None:
                types.append((argument, "constexpr"))
                constants.append((argument, value))
            elif isinstance(value, float):
                types.append((argument, "fp32"))
            elif kernel.params[place].do_not_specialize:
                types.append((argument, "i32"))
            elif value == 1:
                types.append((argument, "constexpr"))
                constants.append((argument, value))
            else:
                types.append((argument, "i32"))
                if value % 16 == 0:
                    aligned.append(place)
        key = name, tuple(types), tuple(constants), tuple(aligned), warps
        self.variants[key] = None


def variants(offset: int = 0) -> Iterator[Variant]:
    """Every variant of a kernel that is launched, once.

    Args:
        offset: number of values that lie before a layer's parameters in the optimizer's buffer.
    """
    recorder = Recorder()
    triton_form._kernels = lambda: recorder  # type: ignore[assignment]
    formats = (torch.contiguous_format, torch.channels_last)
    for (channels, *size), batch, dtype, memory_format in product(
        SHAPES, BATCHES, _DTYPES, formats
    ):
        x = torch.empty((batch, channels, *size), dtype=dtype, device="meta")
        x = x.contiguous(memory_format=memory_format)
        values = [torch.empty(offset + channels, device="meta")[offset:] for _ in range(7)]
        statistics = torch.empty((2, batch, channels), device="meta")
        both = torch.empty((2, channels), device="meta")
        counter = torch.empty((), dtype=torch.int64, device="meta")
        for running in ([*values[5:], counter], [None, None, None]):
            triton_form._forward(x, *values[:5], *running, True, 0.1, 1e-5)
        triton_form._forward(x, *values, None, False, 0.1, 1e-5)
        triton_form._evaluate(x, *values, 1e-5)
        # The first layer's images get no gradient in the meta step.
        for needs_x in (True, False):
            triton_form._backward(x, x, statistics, both, *values[:5], True, 1e-5, needs_x)
    yield from recorder.variants


def compile_variant(job: tuple[Variant, int]) -> str:
    """Compile a variant for a compute capability; what went wrong, or ""."""
    (name, types, constants, aligned, warps), capability = job
    kernel = getattr(triton_kernels, name)
    source = ASTSource(
        kernel,
        dict(types),
        constexprs=dict(constants),
        attrs={(place,): [["tt.divisibility", 16]] for place in aligned},
    )
    try:
        compiled = triton.compile(
            source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}
        )
    except Exception as error:
        return f"{name} for {capability}: {error}"
    if not compiled.asm["cubin"]:
        return f"{name} for {capability}: nothing was made"
    if dict(constants).get("V", 1) > 1 and ".global.b16" in compiled.asm["ptx"]:
        return f"{name} for {capability}: single values are read or written, {constants}"
    return ""


def main() -> int:
    """Compile all; the exit status."""
    found = [*variants()]
    by_place = {*variants(offset=1)} - {*found}
    if by_place:
        print(f"where the parameters lie makes {len(by_place)} variants more")
        return 1
    jobs = [*product(found, CAPABILITIES)]
    if "--all" not in sys.argv:
        jobs = [*{(*job[0][:2], dict(job[0][2]).get("V")): job for job in jobs}.values()]
    with ProcessPoolExecutor() as pool:
        faults = [fault for fault in pool.map(compile_variant, jobs, chunksize=8) if fault]
    print(*faults, f"{len(jobs)} kernels, {len(faults)} faults", sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
