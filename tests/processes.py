"""Processes of their own that start in milliseconds, for tests that kill them."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@functools.cache
def context() -> ForkServerContext:
    """A server that has imported PyTorch, fastreid and the plugin once and forks for each child."""
    server = multiprocessing.get_context("forkserver")
    # The tests' conftest registers the plugin, without which fastreid cannot be imported.
    server.set_forkserver_preload(["pytest", "tests.conftest"])
    paths = os.environ.get("PYTHONPATH")
    # Only what is in the environment when it starts reaches the server.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), paths]))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if paths is not None:
            os.environ["PYTHONPATH"] = paths
    return server


def start(function: Callable[..., object], *args: Any) -> ForkServerProcess:
    """Run ``function(*args)`` in a new process; it ends with this one at the latest.

    Args:
        function: importable by name, since the child imports it.
        *args: picklable.

    Returns:
        The process, started.
    """
    process = context().Process(target=_run, args=(function, *args), daemon=True)
    process.start()
    return process


def _run(function: Callable[..., object], *args: Any) -> None:
    # Python allows a daemon no children of its own, and training has loader workers.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    # As in a script; else the workers would come from this server too.
    multiprocessing.set_start_method("fork", force=True)
    function(*args)
