"""Processes of their own that start in milliseconds, for tests that kill them or run scripts."""

from __future__ import annotations

import functools
import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_TIMEOUT = 300


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


def apart(function: Callable[..., Any], *args: Any) -> tuple[Any, int]:
    """Call a function in a new process, for what it takes of memory.

    In this one an earlier test may have taken more, or left as much to be used again.

    Args:
        function: importable by name.
        *args: picklable.

    Returns:
        What it returned, and the bytes by which the resident memory has grown at most meanwhile.
    """
    ours, theirs = context().Pipe(duplex=False)
    process = start(_measured, theirs, function, args)
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


def _measured(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    # A fork without another program begins with what it holds; elsewhere it begins with the parent.
    before = _peak()
    result = function(*args)
    sender.send((result, _peak() - before))


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fork_what_is_spawned() -> None:
    """Let processes that this one would spawn be forks of it, with all that it has imported."""
    forks = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: forks  # type: ignore[assignment]


@contextmanager
def within(computed: float, waited: float) -> Iterator[None]:
    """A block that must not compute or wait for longer; a busy machine alone is no fault.

    Args:
        computed: seconds that this process, and those that it starts and waits for, may compute.
        waited: seconds that may pass, of which what is waited for is given up after no fewer.
    """
    before, began = os.times(), time.monotonic()
    yield
    seconds = sum(os.times()[:4]) - sum(before[:4])
    assert seconds < computed, f"{seconds:.1f} s were computed"
    assert time.monotonic() - began < waited


def run_script(
    *words: object,
    folder: Path = ROOT,
    settings: Mapping[str, str] | None = None,
    largest_file: int | None = None,
    before: Callable[[], object] | None = None,
    output: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a Python script as a shell would, but without the seconds that its imports take.

    Args:
        *words: the script or ``-m`` and a module, and arguments.
        folder: where to run it.
        settings: environment variables.
        largest_file: bytes that a file may have; more is refused as on a full disk.
        before: what the process does first; importable by name.
        output: a terminal or pipe that takes what it prints to its standard output.

    Returns:
        Its exit status, and what it printed to either stream.
    """
    command = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as printed:
        streams = output or os.path.join(printed, "out"), os.path.join(printed, "err")
        for path in streams:
            Path(path).touch()
        given = command, str(folder), settings or {}, streams, largest_file, before
        process = start(_run_script, *given)
        process.join(_TIMEOUT)
        status = process.exitcode
        process.kill()
        out, err = (
            "" if path == output else Path(path).read_text("utf-8", errors="replace")
            for path in streams
        )
    assert status is not None, f"{command} takes more than {_TIMEOUT} s:\n{out}{err}"
    return subprocess.CompletedProcess(command, status, out, err)


def _run_script(
    words: list[str],
    folder: str,
    settings: dict[str, str],
    streams: tuple[str, str],
    largest_file: int | None,
    before: Callable[[], object] | None,
) -> None:
    for stream, path in enumerate(streams, 1):
        handle = os.open(path, os.O_WRONLY | os.O_NOCTTY)
        os.dup2(handle, stream)
        os.close(handle)
    # The server's may be of a file, and a terminal or pipe has no position.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    os.chdir(folder)
    os.environ |= settings
    if before is not None:
        before()
    is_module = words[0] == "-m"
    sys.argv = words[is_module:]
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if is_module:
        sys.path.insert(0, folder)
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
