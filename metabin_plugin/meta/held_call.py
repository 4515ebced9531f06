"""Calling a module at other parameters, without changing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm


def held_call(
    module: nn.Module, *inputs: Any, parameters: Mapping[str, Tensor] | None = None
) -> Any:
    """Call a module at other parameters, with everything else in it held.

    Its own parameters enter as constants, so that no gradient but those of ``parameters`` is
    computed. In training mode batch normalization uses batch statistics and does not compute
    running ones ("hold"). Other buffers enter as copies, for modules that would write theirs all
    the same.

    Args:
        module: the module; afterwards it is as it was.
        *inputs: its positional inputs.
        parameters: values to use instead of the parameters of these names.

    Returns:
        What the module returns; differentiable with respect to ``parameters`` and ``inputs``.
    """
    tensors = {name: value.detach() for name, value in module.named_parameters()}
    tensors.update(_copied_buffers(module))
    tensors.update(parameters or {})
    with _held_statistics(module):
        return functional_call(module, tensors, inputs)


def _copied_buffers(module: nn.Module) -> dict[str, Tensor]:
    # A copy is a launch, and batch normalization alone has three buffers a layer.
    return {
        f"{name}.{buffer_name}" if name else buffer_name: buffer.clone()
        for name, part in module.named_modules()
        if not isinstance(part, _BatchNorm)
        for buffer_name, buffer in part.named_buffers(recurse=False)
    }


@contextmanager
def _held_statistics(module: nn.Module) -> Iterator[None]:
    held = [
        norm
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training and norm.track_running_stats
    ]
    for norm in held:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in held:
            norm.track_running_stats = True
