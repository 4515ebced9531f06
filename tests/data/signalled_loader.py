"""A process whose training loader has workers; what ends it is the argument.

It prints the workers' numbers. Without an argument it then waits for a line, goes on with its
batches, says whether they are those of a loader without workers, and waits again.
"""

from __future__ import annotations

import itertools
import signal
import sys

import metabin_plugin

metabin_plugin.register()

import multiprocessing
import os

import torch
from torch.multiprocessing import start_processes
from torch.utils.data import BatchSampler, Dataset

from metabin_plugin.compat.data import DeviceDataLoader
from metabin_plugin.data.resumable import ResumableBatches, ResumableLoader


class Noise(Dataset):
    """Random numbers."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(3)


# A loader has no more workers than there are cores, and there may be one.
os.sched_getaffinity = lambda _pid: {0, 1}  # type: ignore[assignment]


def stream(workers: int) -> ResumableBatches:
    loader = DeviceDataLoader(
        0,
        torch.device("cpu"),
        dataset=Noise(),
        batch_sampler=BatchSampler(range(400), 4, True),
        num_workers=workers,
    )
    return iter(ResumableLoader(loader, 5))


def run(rank: int, end: str) -> None:
    global batches  # Alive until the process has ended.
    batches = stream(workers=2)
    next(batches)
    print_workers()
    if "error" in end:
        raise RuntimeError("on purpose")


def print_workers() -> None:
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)


def outlive_signals() -> None:
    batches = stream(workers=2)
    seen = [next(batches)]
    # Not earlier: the workers would have this handler too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    print_workers()
    sys.stdin.readline()
    seen += itertools.islice(batches, 50)
    same = all(map(torch.equal, seen, stream(workers=0)))
    print("the same batches" if same else "other batches", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        outlive_signals()
    elif "child" in sys.argv[1]:
        start_processes(run, (sys.argv[1],), start_method="fork")
    else:
        run(0, sys.argv[1])
