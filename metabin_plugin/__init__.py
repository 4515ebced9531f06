"""MetaBIN (Choi et al., CVPR 2021) as a plugin for the person Re-ID toolbox fastreid."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metabin_plugin.config.keys import add_metabin_config
    from metabin_plugin.environment import let_waiting_threads_sleep
    from metabin_plugin.registration import register

__version__ = "0.1.0"

__all__ = ["__version__", "add_metabin_config", "let_waiting_threads_sleep", "register"]

# Looked up when asked for: threads are settled before PyTorch is loaded.
_HOMES = {
    "add_metabin_config": "metabin_plugin.config.keys",
    "let_waiting_threads_sleep": "metabin_plugin.environment",
    "register": "metabin_plugin.registration",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
