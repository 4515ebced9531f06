"""Python commands in forks of a process that has imported what they need: no seconds of imports.

As a script it is such a process: it runs the commands that come as lines of JSON. It needs nothing
of the tests, so that it can do so where only the package is installed.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# What commands import when they are run.
_HOMES = ("cli.train", *(f"cli.{name}" for name in ("check", "index", "query", "export")))


class ForkedPython:
    """Stands for ``subprocess.Popen`` where the command is Python's.

    Args:
        command: ``python``, then a script or ``-m`` and a module, and arguments.
        env: all of its environment; None for that of this process.
        cwd: the folder where it runs; None for that of this process.
        output: a file that takes what it prints; None for the streams of this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        output: str | None = None,
    ) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_become, args=(command[1:], env, cwd, output))
        self._process.start()

    def wait(self) -> int:
        """Its exit status, which is negative when a signal has ended it."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def _become(
    words: Sequence[str], env: Mapping[str, str] | None, cwd: str | None, output: str | None
) -> None:
    if output is not None:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(handle, stream)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    if cwd is not None:
        os.chdir(cwd)
    is_module = words[0] == "-m"
    sys.argv = list(words[is_module:])
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


def fork_the_commands_of_the_demo() -> None:
    """Let the demo run its commands as forks of this process."""
    demo = importlib.import_module("metabin_plugin.cli.demo")
    demo.subprocess.Popen = ForkedPython  # type: ignore[attr-defined]


def serve() -> None:
    """Say where the package is, run each command that comes as a line of JSON, say its status."""
    import metabin_plugin

    metabin_plugin.register()
    for home in _HOMES:
        importlib.import_module(f"metabin_plugin.{home}")
    fork_the_commands_of_the_demo()
    print(metabin_plugin.__file__, flush=True)
    for line in sys.stdin:
        command, cwd, env, output = json.loads(line)
        print(ForkedPython(command, env, cwd, output).wait(), flush=True)


if __name__ == "__main__":
    # This script's own folder has names that packages have, too.
    del sys.path[0]
    serve()
