"""``zero_grad`` drops the gradients since PyTorch 2.0, and fastreid's flat buffer with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from metabin_plugin.compat.rebinding import repair


def _keep_gradient_buffers(optimizer: torch.optim.Optimizer) -> None:
    zero_grad = optimizer.zero_grad

    def zero_in_place(set_to_none: bool = False) -> None:
        zero_grad(set_to_none=False)

    optimizer.zero_grad = zero_in_place  # type: ignore[method-assign]


def _zero_in_place(original: Callable[..., Any]) -> Callable[..., Any]:
    def build_optimizer(*args: Any, **kwargs: Any) -> Any:
        from fastreid.utils.params import ContiguousParams

        optimizer, params = original(*args, **kwargs)
        if isinstance(params, ContiguousParams):
            _keep_gradient_buffers(optimizer)
        return optimizer, params

    return build_optimizer


def repair_zero_grad() -> None:
    """``optimizer.zero_grad()`` sets the gradient of ``ContiguousParams``' flat buffer to None.

    ``optimizer.step()`` then finds no gradient and updates nothing, silently: the network never
    trains. The optimizers that ``build_optimizer`` makes over such a buffer zero it in place,
    which is what PyTorch did when fastreid was written.
    """
    from fastreid.solver import build

    repair(build, "build_optimizer", _zero_in_place)
