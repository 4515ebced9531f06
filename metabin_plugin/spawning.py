"""Loader workers that do not inherit their parent's memory, with the plugin registered in them.

A process started by ``spawn`` (the rule on macOS and Windows) or ``forkserver`` (on Linux, from
Python 3.14) imports what it is sent: first the parent's main module, whose guarded part is left
out, and ``register()`` with it; then modules of fastreid, which cannot be imported before that.
"""

from __future__ import annotations

import copy
import multiprocessing
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any


def worker_context(workers: int) -> BaseContext | None:
    """The ``multiprocessing_context`` of a PyTorch loader; its workers register the plugin.

    Args:
        workers: number of the loader's workers.

    Returns:
        None, which is PyTorch's own, where workers inherit everything or there are none.
    """
    # Asked for otherwise, the rule would become the script's choice, which it may not change again.
    method = multiprocessing.get_start_method(allow_none=True) or _rule()
    if workers == 0 or method == "fork":
        return None
    # The original is everyone's.
    context: Any = copy.copy(multiprocessing.get_context(method))
    name = f"Registering{context.Process.__name__}"
    context.Process = type(name, (context.Process,), {"__reduce__": _registering})
    return context


def _rule() -> str:
    return multiprocessing.get_all_start_methods()[0]


class _Registration:
    """Registers the plugin where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        from metabin_plugin import register

        return register, ()


def _registering(process: BaseProcess) -> tuple[Any, ...]:
    # Unpickled in this order: the state names classes that can only be found after registration.
    return _process, (_Registration(), type(process).__base__, process.__dict__)


def _process(_done: None, kind: type[BaseProcess], state: dict[str, Any]) -> BaseProcess:
    process = kind.__new__(kind)
    process.__dict__.update(state)
    return process
