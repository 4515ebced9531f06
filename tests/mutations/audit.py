"""Noting what a process opens, writes and starts, as Python's audit events tell."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from typing import Any

# Events whose arguments with these numbers are paths; of all but the first two, it is written to.
_PATHS = {
    "os.listdir": (0,),
    "os.scandir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "shutil.rmtree": (0,),
}
_READING = ("os.listdir", "os.scandir")
# What runs another program or talks to another machine.
_NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
_NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo")
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Of the operating system, which libraries look at by themselves.
_SYSTEM = ("/proc", "/sys/devices", "/sys/fs/cgroup", "/dev/shm", "/dev/null", "/dev/urandom")


class Watch:
    """Writes a line to a file for each event that leaves the places it may touch.

    Files that are opened by code in C, as Faiss's and HDF5's, are not seen.

    Args:
        report: the file, which is made.
        writable: folders that may be changed.
        readable: folders and files that may be read.
    """

    def __init__(self, report: str, writable: Iterable[str], readable: Iterable[str]) -> None:
        own = {sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *sys.path}
        self._writable = tuple(map(os.path.realpath, (*writable, "/dev/null", "/dev/shm")))
        places = (*writable, *readable, *filter(None, own), *_SYSTEM)
        self._readable = tuple(map(os.path.realpath, places))
        # Where tempfile tries whether it can write; it is TMPDIR, a folder of its own.
        tempfile.gettempdir()
        self._report = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._busy = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See an event; ``sys.addaudithook`` takes this."""
        if self._busy:
            return
        self._busy = True
        try:
            self._look(event, arguments)
        finally:
            self._busy = False

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = flags & _WRITE_FLAGS if isinstance(flags, int) else "r" not in (mode or "r")
            self._check(f"open for {'writing' if writes else 'reading'}", path, bool(writes))
        elif event in _PATHS:
            for number in _PATHS[event]:
                self._check(event, arguments[number], event not in _READING)
        elif event in _NEVER or event in _NETWORK:
            self._note(event, repr(arguments)[:300])

    def _check(self, event: str, path: object, writes: bool) -> None:
        if isinstance(path, int) or path is None:
            return
        try:
            real = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return
        places = self._writable if writes else self._readable
        if not any(real == place or real.startswith(place + os.sep) for place in places):
            self._note(event, real)

    def _note(self, event: str, what: str) -> None:
        os.write(self._report, f"{event}: {what}\n".encode(errors="backslashreplace"))
