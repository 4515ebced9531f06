"""The two trainings that are compared, by the project's own trainer on images in files."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.utils.events import EventStorage
from PIL import Image

from benchmarks.measuring import time_once
from benchmarks.setting import ARMS, Setting, training_config
from metabin_plugin.engine import MetaBINTrainer

DOMAINS, IDENTITIES, IMAGES = 5, 16, 4
# Market-1501's; height, width.
SIZE = (128, 64)


def write_domains(folder: Path, size: tuple[int, int] = SIZE) -> list[str]:
    """Write five domains of 16 identities with four JPEG images each.

    They are smooth with some noise, which makes files about as long as those of photographs.

    Args:
        folder: to write into.
        size: height and width of the images.

    Returns:
        Paths of the manifests, which are names for ``DATASETS.NAMES``.
    """
    random = np.random.default_rng(0)
    manifests = []
    for domain in range(DOMAINS):
        rows = ["path,pid,camid"]
        for identity in range(IDENTITIES):
            for camera in range(IMAGES):
                name = f"{domain}_{identity}_{camera}.jpg"
                _draw(random, size).save(folder / name, quality=95)
                rows.append(f"{name},{identity},{camera}")
        manifest = folder / f"domain{domain}.csv"
        manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
        manifests.append(str(manifest))
    return manifests


def _draw(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    height, width = size
    patches = random.integers(0, 256, (8, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth + random.normal(0, 6, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


DATA, BASE, META = PARTS = ("waiting for data", "base step", "meta step")


def quiet_log() -> None:
    """Keep fastreid from a log on standard output, which it sets up for a higher level."""
    logging.getLogger("fastreid").setLevel(logging.INFO)


class Training:
    """A training of which single iterations can be run.

    Args:
        cfg: of ``training_config``.
        repeated: how many batches are loaded and then given again and again, so that no loader is
            measured; 0 for as many as iterations need.
        dtype: of the images of repeated batches.

    Attributes:
        trainer: the project's trainer.
        parts: seconds that the iterations so far spent on each of ``PARTS``.
    """

    def __init__(self, cfg: CfgNode, repeated: int = 0, dtype: torch.dtype = torch.float32) -> None:
        quiet_log()
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
        self.trainer = MetaBINTrainer(cfg)
        self.parts: dict[str, list[float]] = {name: [] for name in PARTS}
        self._batches = _TimedBatches(self.trainer.base_batches, repeated, dtype)
        self.trainer.base_batches = self._batches
        self.trainer.iter, self.trainer.epoch = 0, 0
        self.trainer.storage = EventStorage(0)
        with self.trainer.storage:
            self.trainer.before_train()
            self.trainer.before_epoch()

    def iterate(self) -> None:
        """Run one iteration, hooks included, and time its parts."""
        trainer = self.trainer
        # The steps look for the innermost storage, and other trainings have theirs.
        with trainer.storage:
            trainer.before_step()
            base, base_wait = self._timed(trainer.run_step)
            meta, meta_wait = self._timed(trainer.after_step)
        trainer.iter += 1
        for name, seconds in zip(PARTS, (base_wait + meta_wait, base, meta), strict=True):
            self.parts[name].append(seconds)

    def run(self) -> None:
        """Run one iteration and wait for nothing."""
        with self.trainer.storage:
            self.trainer.before_step()
            self.trainer.run_step()
            self.trainer.after_step()
        self.trainer.iter += 1

    def close(self) -> None:
        """End the processes that load images."""
        self._batches.batches.close()

    def _timed(self, run: Callable[[], object]) -> tuple[float, float]:
        """Seconds of work and of waiting for data."""
        before = self._batches.seconds
        seconds = time_once(run)
        waited = self._batches.seconds - before
        return seconds - waited, waited


class _TimedBatches(Iterator[Any]):
    """Batches, and the seconds spent on waiting for them."""

    def __init__(self, batches: Any, repeated: int, dtype: torch.dtype) -> None:
        self.batches = batches
        self.seconds = 0.0
        kept = [next(batches) for _ in range(repeated)]
        self._kept = [{**batch, "images": batch["images"].to(dtype)} for batch in kept]
        self._given = 0

    def __next__(self) -> Any:
        start = time.perf_counter()
        if self._kept:
            batch = dict(self._kept[self._given % len(self._kept)])
            # A network normalizes them in place.
            batch["images"] = batch["images"].clone()
            self._given += 1
        else:
            batch = next(self.batches)
        self.seconds += time.perf_counter() - start
        return batch


@contextmanager
def trainings(
    settings: Sequence[Setting], arms: Sequence[str] = ARMS
) -> Iterator[dict[str, Training]]:
    """Trainings by ``Setting.arm``, on data that exists as long as the block runs.

    Args:
        settings: of each there are all arms.
        arms: which of ``ARMS``.
    """
    started: dict[str, Training] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifests = write_domains(folder)
        try:
            for setting, arm in product(settings, arms):
                cfg = training_config(setting, arm, manifests, folder)
                started[setting.arm(arm)] = Training(cfg)
            yield started
        finally:
            for training in started.values():
                training.close()
