"""Time and memory of a piece of work, and the machine on which they were measured.

``torch.utils.benchmark.Timer`` is not used: asked for one run it makes three, and an iteration of a
training, a loader's batch or a minute of ranking is run as often as it is asked for.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from metabin_plugin.environment import available_cpus, keep_freed_memory


def times_in_turns(
    arms: Mapping[str, Callable[[], object]],
    repetitions: int,
    *,
    warmups: int = 1,
    calls: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run every arm unmeasured, and then all of them in turns, so that all meet the same load.

    Args:
        arms: what to run, by name.
        repetitions: measured runs of each.
        warmups: unmeasured runs of each.
        calls: how often an arm is called in a run. A GPU works while the next call is prepared, so
            that several show what it needs.
        clock: gives seconds.

    Returns:
        Seconds per call of each measured run, by name.
    """
    for run in arms.values():
        for _ in range(warmups):
            time_once(run, calls)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repetitions):
        for name, run in arms.items():
            seconds[name].append(time_once(run, calls, clock))
    return seconds


def time_once(
    run: Callable[[], object], calls: int = 1, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds that a call takes, with all that it started on a GPU.

    Args:
        run: the call.
        calls: how often to make it; the seconds are the mean.
        clock: gives seconds.
    """
    wait()
    start = clock()
    for _ in range(calls):
        run()
    wait()
    return (clock() - start) / calls


def wait() -> None:
    """Wait until a GPU that this process uses has finished."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


_STATUS = Path("/proc/self/status")


def measure_apart(function: Callable[..., Any], *args: Any) -> tuple[Any, int]:
    """Call a function in a new process.

    Args:
        function: importable by name.
        *args: picklable.

    Returns:
        What it returned, and the largest resident memory of its process in bytes.

    Raises:
        RuntimeError: the process ended early, for want of memory perhaps.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, function, args))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode}") from None
    finally:
        process.join()


def _run(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    result = function(*args)
    sender.send((result, peak()))


def peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    # Linux also counts in ru_maxrss what the process that started this one held at that time.
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest


def keep_memory(device: str) -> str:
    """Let the C library keep freed memory on a CPU, as the trainer does.

    Args:
        device: where the arms run.

    Returns:
        A sentence for the notes; "" for a GPU.
    """
    if device != "cpu":
        return ""
    if keep_freed_memory():
        return "The C library keeps freed memory, as in training (METABIN.KEEP_MEMORY)."
    return "The C library's allocator is as the system or the environment has it."


def compilations() -> int:
    """Graphs that torch.compile has compiled in this process so far."""
    if "torch._dynamo" not in sys.modules:
        return 0
    return sys.modules["torch._dynamo"].utils.counters["stats"]["unique_graphs"]


_PACKAGES = ("numpy", "torch", "fastreid", "metabin_plugin")


def describe() -> str:
    """Processor, threads, load, device and versions, in two lines."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    machine = (
        f"{_processor()}, {available_cpus()} cores, {torch.get_num_threads()} thread(s), "
        f"load {load:.1f} at the start, {_accelerator()}"
    )
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"{machine}\nPython {platform.python_version()}, {versions}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerator() -> str:
    if not torch.cuda.is_available():
        return "no GPU"
    libraries = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"{torch.cuda.get_device_name()}, {libraries}"
