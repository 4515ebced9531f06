"""Loaders that something happens to; each is run in a process of its own."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from metabin_plugin.compat.data import DeviceDataLoader
from metabin_plugin.data.resumable import ResumableLoader

WORKERS = 2


class Images(Dataset[Any]):
    """Anything, made by a function of the index."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Unsendable:
    """What cannot be handed over."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def plain(index: int) -> torch.Tensor:
    return torch.ones(3)


def from_the_fifth(action: Callable[[], Any]) -> Callable[[int], Any]:
    """Numbers, and from the fifth image on what ``action`` gives or does."""
    return lambda index: index if index < 4 else action()


def dying(number: int) -> Callable[[int], Any]:
    return from_the_fifth(lambda: os.kill(os.getpid(), number))


def ending(status: int) -> Callable[[int], Any]:
    return from_the_fifth(lambda: os._exit(status))


def unsendable(error: Exception) -> Callable[[int], Any]:
    return from_the_fifth(lambda: Unsendable(error))


def dying_amid_a_message(index: int) -> Any:
    """The first batch is more than a pipe holds; its sender dies while nobody reads."""
    if index == 0:
        return bytes(10**7)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def large(index: int) -> torch.Tensor:
    return torch.ones(2**20)


def failing_sampler(after: int) -> Iterator[list[int]]:
    for number in range(after):
        yield [number]
    raise RuntimeError("the sampler failed")


def few_files() -> None:
    # Some are left, so that it is not the first one that fails.
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 12,) * 2)


def failing_fork(number: int) -> None:
    """The second worker cannot be forked."""
    fork, calls = os.fork, itertools.count()

    def limited() -> int:
        if next(calls) == 1:
            raise OSError(number, os.strerror(number))
        return fork()

    os.fork = limited


def ctrl_c_at_fork(call: int, before: bool) -> None:
    """Ctrl-C just before or just after a worker is forked."""
    fork, calls, parent = os.fork, itertools.count(), os.getpid()

    def interrupted() -> int:
        now = next(calls) == call
        if now and before:
            os.kill(parent, signal.SIGINT)
        pid = fork()
        if now and not before and pid:
            os.kill(parent, signal.SIGINT)
        return pid

    os.fork = interrupted


def say(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.rename(path)


def asleep(folder: Path) -> Callable[[int], Any]:
    def make(index: int) -> Any:
        say(folder / "asleep", "")
        time.sleep(1000)

    return make


def run(folder: Path, kind: str, name: str) -> None:
    """Read all batches while something goes wrong, and report the error."""
    os.setpgid(0, 0)
    # A loader has no more workers than there are cores, and there may be one.
    os.sched_getaffinity = lambda _pid: set(range(WORKERS))
    others = {"asleep": (None, asleep(folder), None), "large": (None, large, None)}
    prepare, make, batches = {**FAULTS, **others}[name]
    loader: Any = DeviceDataLoader(
        0,
        torch.device("cpu"),
        dataset=Images(make or plain),
        batch_sampler=batches() if batches else [[number] for number in range(40)],
        num_workers=WORKERS,
        collate_fn=list,
    )
    if kind == "training":
        loader = ResumableLoader(loader, 5)
    if prepare is not None:
        prepare()
    try:
        for number, _ in enumerate(loader):
            if number == 0:
                # The next ones are loaded meanwhile, and nobody asks for them.
                time.sleep(1.5 if make is dying_amid_a_message else 0.1)
    except BaseException as error:
        say(folder / "error", f"{type(error).__name__}: {error}")
        raise
    say(folder / "error", "none")


# By name: what to do before, what makes the images, the sampler.
FAULTS: dict[str, tuple[Any, Any, Any]] = {
    "nothing": (None, None, None),
    "sampler": (None, None, lambda: failing_sampler(0)),
    "sampler while the first batches are drawn": (None, None, lambda: failing_sampler(2)),
    "sampler later": (None, None, lambda: failing_sampler(20)),
    "too many open files": (few_files, None, None),
    "no further process": (lambda: failing_fork(errno.EAGAIN), None, None),
    "no memory for a process": (lambda: failing_fork(errno.ENOMEM), None, None),
    "killed": (None, dying(signal.SIGKILL), None),
    "bus error": (None, dying(signal.SIGBUS), None),
    "crash": (None, dying(signal.SIGSEGV), None),
    "killed amid a message": (None, dying_amid_a_message, None),
    "ended": (None, ending(0), None),
    "ended with a status": (None, ending(3), None),
    "unsendable": (None, unsendable(TypeError("no pickle of it")), None),
    "no room for it": (None, unsendable(OSError(errno.ENOSPC, "No space left on device")), None),
    "no room in shared memory": (
        None,
        unsendable(RuntimeError("file </torch_1_2_0>: No space left on device (28)")),
        None,
    ),
    "Ctrl-C before a worker is there": (lambda: ctrl_c_at_fork(1, True), None, None),
    "Ctrl-C when a worker is there": (lambda: ctrl_c_at_fork(1, False), None, None),
    "Ctrl-C when the first worker is there": (lambda: ctrl_c_at_fork(0, False), None, None),
}
