"""``Checkpointer`` writes in place, trusts what it reads, and loads what does not fit."""

from __future__ import annotations

from metabin_plugin.compat.rebinding import rebind


def repair_checkpointer() -> None:
    """``Checkpointer`` loses the last checkpoint when it is killed while it writes the next one.

    It also loads damaged files and misfits without an error, and not the NumPy values that
    checkpoints hold. ``SafeCheckpointer`` takes its place.
    """
    from fastreid.utils import checkpoint

    # It can be defined only when fastreid can be imported.
    from metabin_plugin.compat.checkpointer import SafeCheckpointer

    rebind(checkpoint.Checkpointer, SafeCheckpointer)
