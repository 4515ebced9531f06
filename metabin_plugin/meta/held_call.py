"""Calling a module without changing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def held_call(module: nn.Module, *inputs: Any, gates: Mapping[str, Tensor] | None = None) -> Any:
    """Call a module at other gates, with everything else in it held.

    Parameters enter as constants, so no gradient but the gates' is computed. Buffers enter as
    copies: in training mode batch normalization uses batch statistics while the running ones stay
    as they are, bit for bit ("hold").

    Args:
        module: the module; nothing in it is written.
        *inputs: its positional inputs.
        gates: values to use instead of the parameters of these names.

    Returns:
        What the module returns; differentiable with respect to ``gates`` and ``inputs``.
    """
    tensors = {name: parameter.detach() for name, parameter in module.named_parameters()}
    tensors.update((name, buffer.clone()) for name, buffer in module.named_buffers())
    tensors.update(gates or {})
    return functional_call(module, tensors, inputs)
