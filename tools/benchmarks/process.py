"""What holds for all arms of a process: its memory allocator, its compilations."""

from __future__ import annotations

import sys

from metabin_plugin.allocator import keep_freed_memory


def keep_memory(device: str) -> str:
    """Let the C library keep freed memory on a CPU, as the trainer does.

    Args:
        device: where the arms run.

    Returns:
        A sentence for the notes; "" for a GPU.
    """
    if device != "cpu":
        return ""
    if keep_freed_memory():
        return "The C library keeps freed memory, as in training (METABIN.KEEP_MEMORY)."
    return "The C library's allocator is as the system or the environment has it."


def compilations() -> int:
    """Graphs that torch.compile has compiled in this process so far."""
    if "torch._dynamo" not in sys.modules:
        return 0
    return sys.modules["torch._dynamo"].utils.counters["stats"]["unique_graphs"]
