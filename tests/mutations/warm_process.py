"""A process that has imported everything once and forks for each command.

A command then starts in milliseconds, in a process of its own that may hang, crash or fill its
memory without harm.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import io
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 20
# Beyond what is mapped when a command starts: images and checkpoints here have some kilobytes.
LIMIT_BYTES = 2 << 30
_LARGEST_FILE = 256 << 20
_POLL_SECONDS = 0.005
# Beside a command's output in its folder.
OUT, ERR, EVENTS, PLACES = "stdout.txt", "stderr.txt", "events.txt", "places.txt"


@dataclass(frozen=True)
class Command:
    """A call of a tool as a user would make it.

    Attributes:
        line: the script, relative to the project's folder, and its arguments.
        folder: the only folder that it may change; what it prints is kept there, too.
        given: folders and files that it may read beside its own.
        learn: whether the warm process imports what this command imported, for those to come.
        limit: seconds after which it is ended.
    """

    line: list[str]
    folder: str
    given: list[str]
    learn: bool = False
    limit: float = LIMIT_SECONDS


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        status: its exit status; negative for the signal that ended it.
        seconds: how long it took.
        in_time: whether it ended by itself within the limit.
        out: what it printed.
        err: what it printed to standard error.
        events: the files and programs that it may not touch, and touched.
        places: where it was when it crashed, or shortly before the limit.
    """

    status: int
    seconds: float
    in_time: bool
    out: str
    err: str
    events: list[str]
    places: str


class WarmProcess:
    """The process, started; a context manager that ends it."""

    def __init__(self) -> None:
        paths = [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> WarmProcess:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.communicate()

    def run(self, command: Command) -> Outcome:
        """Run a command and wait for it, at most its limit."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(asdict(command)), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())

        def text(name: str) -> str:
            path = Path(command.folder, name)
            return path.read_text(errors="backslashreplace") if path.exists() else ""

        return Outcome(
            **answer,
            out=text(OUT),
            err=text(ERR),
            events=list(dict.fromkeys(text(EVENTS).splitlines())),
            places=text(PLACES),
        )


def serve() -> None:
    """Fork for each command that comes as a line of JSON, and answer with how it ended."""
    _import_all()
    for line in sys.stdin:
        command = Command(**json.loads(line))
        modules = os.path.join(command.folder, "modules.txt")
        process = os.fork()
        if process == 0:
            _become(command, modules if command.learn else "")
        started = time.monotonic()
        status, in_time = _wait(process, command.limit)
        seconds = time.monotonic() - started
        if command.learn:
            _import_listed(modules)
        print(json.dumps({"status": status, "seconds": seconds, "in_time": in_time}), flush=True)


def _import_all() -> None:
    import torch
    from matplotlib.figure import Figure
    from PIL import Image

    import metabin_plugin

    torch.set_num_threads(1)
    metabin_plugin.register()
    importlib.import_module("tests.distributed.small_backbone")
    Image.init()
    # Or each command that draws would look for the system's fonts, and read one.
    figure = Figure()
    figure.subplots().set_title("any text")
    figure.savefig(io.BytesIO())
    gc.freeze()


def _import_listed(path: str) -> None:
    for name in Path(path).read_text().split():
        # Some are parts that can be imported only from inside their package.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()
    # A fork copies the calling thread alone, and may leave another one's lock held for ever.
    assert threading.active_count() == 1, threading.enumerate()


def _wait(process: int, limit: float) -> tuple[int, bool]:
    """Exit status, and whether the process ended in time; nothing of its session is left."""
    end = time.monotonic() + limit
    found, status = 0, 0
    while not found and time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if not found:
            time.sleep(_POLL_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if not found:
        _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), bool(found)


def _become(command: Command, modules: str) -> None:
    """Run the command in this process, which then ends as Python ends, but for one thing.

    Nothing is freed: that would copy all the memory of the warm process, in most of a second.
    """
    os.setsid()
    os.chdir(command.folder)
    _redirect(command.folder)
    _limit()
    temporary = os.path.join(command.folder, "tmp")
    os.makedirs(temporary, exist_ok=True)
    os.environ.update(TMPDIR=temporary, HOME=temporary, MPLCONFIGDIR=temporary)
    places = os.open(os.path.join(command.folder, PLACES), os.O_WRONLY | os.O_CREAT)
    faulthandler.enable(places)
    faulthandler.dump_traceback_later(0.9 * command.limit, file=places)
    from tests.mutations.audit import Watch

    events = os.path.join(command.folder, EVENTS)
    script = str(ROOT / command.line[0])
    sys.argv = [script, *command.line[1:]]
    sys.path[0] = os.path.dirname(script)
    known = set(sys.modules)
    sys.addaudithook(Watch(events, [command.folder], [str(ROOT), *command.given]))
    status: object = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    if modules:
        Path(modules).write_text("\n".join(sorted(set(sys.modules) - known)))
    if not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


def _redirect(folder: str) -> None:
    for number, name in ((1, OUT), (2, ERR)):
        handle = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + LIMIT_BYTES
    limits: dict[int, Any] = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: _LARGEST_FILE,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    serve()
