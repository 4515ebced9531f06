"""Images that the training loader gives in a second, beside those that training takes.

The loader is the trainer's, on drawn JPEG images of Market-1501's size unless told otherwise, and
is measured alone. Training is measured without its waiting for data; a MetaBIN iteration takes two
batches.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measuring import time_once
from benchmarks.report import Case, Comparison
from benchmarks.training import (
    BASE,
    META,
    METABIN,
    SIZE,
    Numbers,
    Setting,
    add_training_arguments,
    read_setting,
    training_config,
    trainings,
    write_domains,
)
from metabin_plugin.engine import MetaBINTrainer

TRAINING = "training takes"
# So that a step never waits, although images and the machine's load vary.
_RESERVE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own arguments."""
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batches", type=int, default=10, help="loaded in each repetition")
    parser.add_argument("--max-workers", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=3, help="measured training iterations")
    parser.add_argument(
        "--file-size", type=Numbers("x", 2), default=SIZE, help="of the image files, HEIGHTxWIDTH"
    )
    parser.add_argument(
        "--gpu-images-per-second",
        type=float,
        default=2000.0,
        help="what a GPU is assumed to train on (default: %(default)g)",
    )
    add_training_arguments(parser)


def run(args: argparse.Namespace) -> Comparison:
    """Measure."""
    setting = read_setting(args)
    rates = {TRAINING: _training_rates(setting, args.iterations)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifests = write_domains(folder, args.file_size)
        loaders = {}
        for workers in range(args.max_workers + 1):
            cfg = training_config(replace(setting, workers=workers), METABIN, manifests, folder)
            loaders[workers] = iter(MetaBINTrainer.build_train_loader(cfg))
        given = _loader_rates(loaders, setting.batch, args.batches, args.repetitions)
    arms = {workers: f"loader, {workers} worker(s)" for workers in given}
    rates |= {arms[workers]: given[workers] for workers in given}
    case = Case(str(setting), rates)
    notes = [f"{arm}: {statistics.median(images):,.0f} images/s." for arm, images in rates.items()]
    if 1 in given:
        notes.append(_on_paper(args.gpu_images_per_second, statistics.median(given[1])))
    height, width = args.file_size
    title = f"Training loader, JPEG images of {height}x{width}, and training with {METABIN}"
    return Comparison(title, "images/s", 1.0, list(rates), [case], notes)


def _training_rates(setting: Setting, iterations: int) -> list[float]:
    with trainings([setting], [METABIN]) as started:
        (one,) = started.values()
        for _ in range(1 + iterations):
            one.iterate()
    working = zip(one.parts[BASE][1:], one.parts[META][1:], strict=True)
    return [2 * setting.batch / (base + meta) for base, meta in working]


def _loader_rates(
    loaders: dict[int, Any], batch: int, batches: int, repetitions: int
) -> dict[int, list[float]]:
    """Images per second of each repetition, by number of workers, the loaders taking turns."""
    rates: dict[int, list[float]] = {workers: [] for workers in loaders}
    for _ in range(repetitions):
        for workers, loader in loaders.items():
            # What was loaded ahead while the others had their turn; also starts the workers.
            for _ in range(2 * workers + 1):
                next(loader)
            seconds = time_once(functools.partial(next, loader), batches)
            rates[workers].append(batch / seconds)
    for loader in loaders.values():
        loader.close()
    return rates


def _on_paper(gpu: float, worker: float) -> str:
    needed = _RESERVE * gpu
    return (
        f"On paper: a GPU that trains on {gpu:,.0f} images/s needs {needed:,.0f} images/s from its "
        f"loader, twice as many; at {worker:,.0f} a worker that is {math.ceil(needed / worker)} "
        "workers on as many cores."
    )
