"""Page faults of a process that keeps what it frees, and who is asked first."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import platform
import resource

import pytest
import torch

from metabin_plugin import environment as allocator
from tests.processes import apart

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")


def count(keeps: bool, environment: dict[str, str]) -> tuple[float, list[bool], str]:
    """What ``run`` returns, of this process."""
    for name in [name for name in os.environ if "MALLOC" in name]:
        del os.environ[name]
    os.environ.update(environment)
    log = io.StringIO()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=log, force=True)
    logging.getLogger(allocator.__name__.partition(".")[0]).parent = logging.getLogger()
    kept = [allocator.keep_freed_memory(), allocator.keep_freed_memory()] if keeps else []
    # Without huge pages (PR_SET_THP_DISABLE) a fault is a page.
    assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0
    pages = 64 * 2**20 // resource.getpagesize()
    # The first few may come to lie elsewhere.
    for _ in range(10):
        torch.empty(2**24).fill_(0.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(2**24).fill_(0.0)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults / (20 * pages), kept, log.getvalue()


def run(word: str, **environment: str) -> tuple[float, list[bool], str]:
    """Faults for each page that was allocated, what the two calls returned, and the log."""
    # In a process of its own, for which alone the setting holds.
    return apart(count, word == "keep", environment)[0]


@GLIBC
def test_the_pages_of_a_freed_tensor_are_used_again() -> None:
    faults, kept, log = run("keep")
    assert kept == [True, True]
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
    assert kept == [False, False]
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
