"""How long the threads of a computation wait awake; to be said before PyTorch is loaded.

This module and what it imports load neither PyTorch nor NumPy.
"""

from __future__ import annotations

import os

# PyTorch's OpenMP is GNU's (libgomp), which reads its environment when it is loaded. Its threads
# turn 300,000 rounds, some milliseconds, before they sleep, and keep the cores from another
# training meanwhile. 1000 is what it takes itself where it knows of more threads than cores.
_SPIN_COUNT = ("GOMP_SPINCOUNT", "1000")
_OF_THE_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def let_waiting_threads_sleep() -> None:
    """Let two computations share the cores of a machine; a command calls it first of all.

    By default threads that wait for others spin. This process and those that it starts let them
    sleep earlier, unless the environment says how threads wait (``GOMP_SPINCOUNT``,
    ``OMP_WAIT_POLICY``). After PyTorch was loaded it has an effect on processes started later only.
    """
    if not any(name in os.environ for name in _OF_THE_USER):
        name, value = _SPIN_COUNT
        os.environ[name] = value
