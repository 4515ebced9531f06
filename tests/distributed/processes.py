"""Runs a function in several processes that form a gloo group, and collects what they return."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.processes import start


def run_ranks(folder: Path, size: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``work(rank, *args)`` returned, by rank; each ran in a process with one thread."""
    folder.mkdir(parents=True)
    processes = [start(_rank, folder, rank, size, work, args) for rank in range(size)]
    for process in processes:
        # A busy machine compiles for minutes.
        process.join(600)
        process.kill()
    errors = [path.read_text() for path in sorted(folder.glob("*.txt"))]
    assert not errors, "\n".join(errors)
    assert [process.exitcode for process in processes] == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _rank(folder: Path, rank: int, size: int, work: Callable[..., Any], args: Any) -> None:
    try:
        from metabin_plugin.compat.launching import Place, process_group

        with process_group(Place(rank, size, 0, 1, f"file://{folder / 'meeting'}")):
            torch.set_num_threads(1)
            assert dist.get_world_size() == size
            torch.save(work(rank, *args), folder / f"{rank}.pt")
    except Exception:
        (folder / f"{rank}.txt").write_text(traceback.format_exc())
        raise SystemExit(1) from None
