"""Noting what a process opens, writes and starts, as Python's audit events tell."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
import tempfile
import threading
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
# What is done to a link of that name, not to what it leads to.
_OF_THE_NAME = ("os.remove", "os.rmdir", "os.mkdir", "os.rename", "os.link", "os.symlink")
_READING = ("os.listdir", "os.scandir")
# What runs another program or talks to another machine.
_NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
_NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo")
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Of the operating system, which libraries look at by themselves.
_SYSTEM = ("/proc", "/sys/devices", "/sys/fs/cgroup", "/dev/shm", "/dev/null", "/dev/urandom")


class Openings:
    """The files of a folder that any process opens, also by code in C; a Linux kernel tells.

    Args:
        folder: the folder; those below it are not seen.
    """

    _OPEN, _IS_FOLDER = 0x20, 0x40000000
    _HEAD = struct.Struct("iIII")

    def __init__(self, folder: str) -> None:
        system = ctypes.CDLL(None, use_errno=True)
        self._handle = system.inotify_init1(os.O_NONBLOCK)
        if system.inotify_add_watch(self._handle, os.fsencode(folder), self._OPEN) < 0:
            raise OSError(ctypes.get_errno(), "cannot watch", folder)

    def __enter__(self) -> Openings:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._handle)

    def names(self) -> list[str]:
        """Names of the files opened since the last call."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._handle, 1 << 16):
                while data:
                    _, mask, _, size = self._HEAD.unpack_from(data)
                    name, data = data[self._HEAD.size :][:size], data[self._HEAD.size + size :]
                    if not mask & self._IS_FOLDER:
                        found.append(os.fsdecode(name.rstrip(b"\0")))
        return found


class Watch:
    """Writes a line to a file for each event that leaves the places it may touch.

    Files that are opened by code in C, as Faiss does, are not seen: see ``Openings``.

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
        self._looking = threading.local()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See an event; ``sys.addaudithook`` takes this."""
        # Looking has events of its own.
        if getattr(self._looking, "at_one", False):
            return
        self._looking.at_one = True
        try:
            self._look(event, arguments)
        finally:
            self._looking.at_one = False

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = flags & _WRITE_FLAGS if isinstance(flags, int) else "r" not in (mode or "r")
            self._check(f"open for {'writing' if writes else 'reading'}", path, bool(writes))
        elif event in _PATHS:
            for number in _PATHS[event]:
                self._check(event, arguments[number], event not in _READING)
        elif event in _NETWORK and isinstance(arguments[-1], str):
            # A socket in a file system, by which processes of one run hand over what they have.
            self._check(event, arguments[-1], writes=True)
        elif event in _NEVER or event in _NETWORK:
            self._note(event, repr(arguments)[:300])

    def _check(self, event: str, path: object, writes: bool) -> None:
        if isinstance(path, int) or path is None:
            return
        try:
            real = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]
            folder, name = os.path.split(real)
            if event in _OF_THE_NAME:
                real = os.path.join(os.path.realpath(folder), name)
            else:
                real = os.path.realpath(real)
        except (TypeError, ValueError):
            return
        places = self._writable if writes else self._readable
        if not any(real == place or real.startswith(place + os.sep) for place in places):
            self._note(event, real)

    def _note(self, event: str, what: str) -> None:
        os.write(self._report, f"{event}: {what}\n".encode(errors="backslashreplace"))
