"""Operators that PyTorch dispatches: on a GPU about one kernel launch each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# They make a tensor without touching its values, or none at all.
_FREE = ("empty", "detach", "alias", "unbind", "split", "_unsafe_view", "promote_types", "profiler")


class Operators(TorchDispatchMode):
    """Inside, lists the operators that compute something; views and allocations are left out.

    Attributes:
        called: their names, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = str(func)
        if not (func.is_view or any(free in name for free in _FREE)):
            self.called.append(name)
        return func(*args, **(kwargs or {}))
