"""``CommonMetricPrinter`` divides by the iterations since its last line, be they none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metabin_plugin.compat.rebinding import repair


def _once_per_iteration(original: Callable[..., Any]) -> Callable[..., Any]:
    def write(self: Any) -> None:
        from fastreid.utils.events import get_event_storage

        if self._last_write is None or self._last_write[0] != get_event_storage().iter:
            original(self)

    return write


def repair_progress() -> None:
    """A run of fewer than three iterations writes twice in one iteration: ``ZeroDivisionError``.

    fastreid measures no iteration time before the third, and estimates it from its last line.
    """
    from fastreid.utils.events import CommonMetricPrinter

    repair(CommonMetricPrinter, "write", _once_per_iteration)
