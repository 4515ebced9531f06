"""``torch.autograd.profiler.profile(use_cuda=)``: the argument became ``use_device``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from metabin_plugin.compat.rebinding import repair


def _with_use_device(_original: Callable[..., Any]) -> Callable[..., Any]:
    def before_step(self: Any) -> None:
        self._profiler = None
        if self._enable_predicate(self.trainer):
            on_cuda = self._use_cuda and torch.cuda.is_available()
            self._profiler = torch.autograd.profiler.profile(use_device="cuda" if on_cuda else None)
            self._profiler.__enter__()

    return before_step


def repair_profiler() -> None:
    """The hook ``AutogradProfiler`` asks the profiler for ``use_cuda``, which is gone."""
    from fastreid.engine.hooks import AutogradProfiler

    repair(AutogradProfiler, "before_step", _with_use_device)
