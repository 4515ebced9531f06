"""Letting the C library keep the memory of freed tensors."""

from __future__ import annotations

import ctypes
import functools
import logging
import os

logger = logging.getLogger(__name__)

# Parameters of glibc's mallopt(3). Without mappings of their own, large tensors come from the heap,
# which is never trimmed and grows in large pieces.
_SETTINGS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_TOP_PAD": (-2, 256 * 2**20)}
_OF_THE_USER = ("MALLOC_", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees, instead of giving it back to the kernel.

    By default every large tensor is a mapping of its own, whose pages the kernel clears anew for
    each layer of each step. What is kept can be as much as the process's peak. It takes effect at
    once, for the rest of the process and in those forked from it; only the first call does
    anything.

    Returns:
        Whether it was done. Not where the C library has no ``mallopt`` or refuses it (macOS, musl),
        nor where the user has chosen: with ``MALLOC_...`` or ``GLIBC_TUNABLES`` in the environment.
    """
    chosen = sorted(name for name in os.environ if name.startswith(_OF_THE_USER))
    if chosen:
        logger.info("Memory allocation is left as %s in the environment has it", chosen[0])
        return False
    mallopt = _mallopt()
    # All of them: each helps without the others.
    if mallopt is None or not all([mallopt(*setting) for setting in _SETTINGS.values()]):
        return False
    logger.info("Freed memory is kept for the next tensor (METABIN.KEEP_MEMORY)")
    return True


def _mallopt() -> ctypes._NamedFuncPointer | None:
    try:
        return ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return None
