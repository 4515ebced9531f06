"""A process and its machine: how many CPUs it has, how its threads wait, which memory it keeps."""

from __future__ import annotations

import ctypes
import functools
import logging
import os

logger = logging.getLogger(__name__)


# PyTorch's OpenMP is GNU's (libgomp), which reads its environment when it is loaded. Its threads
# turn 300,000 rounds, some milliseconds, before they sleep, and keep the cores from another
# training meanwhile. 1000 is what it takes itself where it knows of more threads than cores.
_SPIN_COUNT = ("GOMP_SPINCOUNT", "1000")
_USERS_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


# Parameters of glibc's mallopt(3). Without mappings of their own, large tensors come from the heap,
# which is never trimmed and grows in large pieces.
_SETTINGS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_TOP_PAD": (-2, 256 * 2**20)}
_USERS_ALLOCATION = ("MALLOC_", "GLIBC_TUNABLES")


def let_waiting_threads_sleep() -> None:
    """Let two computations share the cores of a machine; a command calls it first of all.

    By default threads that wait for others spin. This process and those that it starts let them
    sleep earlier, unless the environment says how threads wait (``GOMP_SPINCOUNT``,
    ``OMP_WAIT_POLICY``). After PyTorch was loaded it has an effect on processes started later only.
    """
    if not any(name in os.environ for name in _USERS_WAITING):
        name, value = _SPIN_COUNT
        os.environ[name] = value


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
    chosen = sorted(name for name in os.environ if name.startswith(_USERS_ALLOCATION))
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


def available_cpus() -> int:
    """Number of CPUs this process may run on (at least 1)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
