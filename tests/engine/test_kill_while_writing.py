"""SIGKILL at random moments of checkpoint writing: there is always a whole one to resume from."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from fastreid.utils.checkpoint import Checkpointer
from torch import nn

from tests.campaigns import tries
from tests.processes import context, start

KILLS = tries(12, 50)


def network() -> nn.Module:
    """4 MB, all of one value."""
    return nn.ModuleList(nn.Linear(512, 512, bias=False) for _ in range(4))


def checkpointer(folder: Path, model: nn.Module) -> Checkpointer:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return Checkpointer(model, str(folder), optimizer=optimizer)


def write_for_ever(folder: Path, parent: Connection) -> None:
    """Resume, then write one checkpoint after another, whose values are all its number."""
    torch.set_num_threads(1)
    model = network()
    saver = checkpointer(folder, model)
    number = saver.resume_or_load("", resume=True).get("number", 0)
    while True:
        number += 1
        for weight in model.parameters():
            nn.init.constant_(weight, number)
        parent.send(("begun", time.perf_counter()))
        # Few names, so that complete checkpoints are replaced as well.
        saver.save(f"model_{number % 3}", number=number)
        parent.send(("done", time.perf_counter()))


def kill_while_writing(folder: Path, moment: float) -> bool:
    """Kill a writer when ``moment`` times the duration of a write has passed since the first one.

    Returns:
        Whether it was inside a write.
    """
    ours, theirs = context().Pipe(duplex=False)
    writer = start(write_for_ever, folder, theirs)
    theirs.close()
    began, ended = (ours.recv()[1] for _ in range(2))
    time.sleep((ended - began) * moment)
    assert writer.is_alive()
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    said = "done"
    with contextlib.suppress(EOFError):
        while True:
            said = ours.recv()[0]
    return said == "begun"


def unfinished(folder: Path) -> set[tuple[str, int]]:
    return {(path.name, path.stat().st_mtime_ns) for path in folder.glob("*.partial")}


def whole_checkpoint(folder: Path) -> int:
    """Resume as a run does; the number of the checkpoint, whose values must all be that."""
    model = network()
    number = checkpointer(folder, model).resume_or_load("", resume=True)["number"]
    assert all((weight == number).all() for weight in model.parameters())
    return number


@pytest.mark.slow
def test_a_killed_writer_always_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    draw, last, inside, torn = random.Random(0), 0, 0, 0
    for kill in range(KILLS):
        # What earlier kills left stays: it must be in nobody's way.
        before = unfinished(tmp_path)
        inside += kill_while_writing(tmp_path, draw.uniform(0, 2))
        torn += bool(unfinished(tmp_path) - before)
        number = whole_checkpoint(tmp_path)
        # The first one was complete before the kill, and none is lost again.
        assert number > last, f"kill {kill}"
        last = number
    print(f"{inside} of {KILLS} kills fell into a write, {torn} left an unfinished file")
    # Otherwise the kills missed the writing, and prove nothing.
    assert inside > KILLS / 4
    assert torn > 0
