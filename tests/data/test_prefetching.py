"""Loading goes on while a step computes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.starting import started
from tests.engine.tiny_data import tiny_config

BATCH = 12


class Counted:
    """A transform that counts its images, over all processes."""

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        self.transform = transform
        self.count = multiprocessing.Value("i")

    def __call__(self, image: Any) -> Any:
        with self.count.get_lock():
            self.count.value += 1
        return self.transform(image)


@pytest.mark.parametrize(
    ("config", "ahead"),
    [
        # Base and meta batches from one stream, and from one each; a worker is 2 batches ahead.
        ("MetaBIN.yml", 2),
        ("MetaBIN-reference.yml", 4),
    ],
)
def test_workers_load_the_next_batches_meanwhile(tmp_path: Path, config: str, ahead: int) -> None:
    trainer = started(tiny_config(tmp_path, "DATALOADER.NUM_WORKERS", "1", base=config))
    dataset = trainer.data_loader.dataset
    counted = dataset.transform = Counted(dataset.transform)
    # The meta step's own; where it has none it draws the base step's.
    own = trainer.hook("MetaLearningHook").batches
    streams = (trainer.base_batches, trainer.base_batches if own is None else own)
    for stream in streams:
        next(stream)
    deadline = time.monotonic() + 300
    # Nobody asks for a batch from here on.
    while counted.count.value < BATCH * (2 + ahead) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert counted.count.value == BATCH * (2 + ahead)
    for stream in streams:
        stream.close()
