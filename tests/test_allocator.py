"""Page faults of a process that keeps what it frees, and who is asked first."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from metabin_plugin import environment as allocator

# Run alone: the setting holds for a whole process.
FAULTS = """
import ctypes, logging, resource, sys
import torch
from metabin_plugin.environment import keep_freed_memory

logging.basicConfig(level=logging.INFO, format="%(message)s")
kept = [keep_freed_memory(), keep_freed_memory()] if sys.argv[1] == "keep" else []
torch.set_num_threads(1)
# Without huge pages (PR_SET_THP_DISABLE) a fault is a page.
assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0
pages = 64 * 2**20 // resource.getpagesize()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
# The first few may come to lie elsewhere.
for _ in range(10):
    torch.empty(2**24).fill_(0.0)
before = faults()
for _ in range(20):
    torch.empty(2**24).fill_(0.0)
print((faults() - before) / (20 * pages), *kept)
"""
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")


def run(word: str, **environment: str) -> tuple[float, list[str], str]:
    """Faults for each page that was allocated, what the two calls returned, and the log."""
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    process = subprocess.run(
        [sys.executable, "-c", FAULTS, word],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    faults, *kept = process.stdout.split()
    return float(faults), kept, process.stderr


@GLIBC
def test_the_pages_of_a_freed_tensor_are_used_again() -> None:
    faults, kept, log = run("keep")
    assert kept == ["True", "True"]
    assert faults < 0.2
    assert log.count("Freed memory is kept") == 1


@GLIBC
def test_by_default_they_are_not() -> None:
    assert run("leave")[0] > 0.5


@GLIBC
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_a_setting_of_the_user_is_left_alone(name: str) -> None:
    value = "glibc.malloc.arena_max=2" if name == "GLIBC_TUNABLES" else "131072"
    faults, kept, log = run("keep", **{name: value})
    assert kept == ["False", "False"]
    assert faults > 0.5
    assert f"as {name} in the environment" in log


class Without:
    """A C library without ``mallopt``."""


class Refusing:
    """One that refuses everything; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.asked.append((parameter, value))
        return 0


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    refusing = Refusing()
    for library in (Without(), refusing):
        monkeypatch.setattr(ctypes, "CDLL", lambda _name, library=library: library)
        assert allocator.keep_freed_memory.__wrapped__() is False
    assert len(refusing.asked) == 3
