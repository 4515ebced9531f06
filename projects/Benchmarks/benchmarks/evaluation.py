"""A target with several splits: each evaluated alone, and all from one extraction of features.

The images are noise; the network has random weights. Loading, network and scoring are measured
together, as DefaultTrainer.test does them.
"""

from __future__ import annotations

import argparse
import functools
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from PIL import Image

from benchmarks.measuring import measure_apart, times_in_turns
from benchmarks.report import Arm, Report
from metabin_plugin.engine import MetaBINTrainer, read_config

ALONE, TOGETHER = "each split alone", "all splits at once"
_ROOT = Path(__file__).resolve().parents[3]
Split = tuple[list[tuple[str, int, int]], list[tuple[str, int, int]]]


class Target(ImageDataset):
    """Query and gallery of the first of some splits."""

    def __init__(self, splits: list[Split], **_: Any) -> None:
        super().__init__([], *splits[0])
        self.splits = splits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own arguments."""
    parser.add_argument("--images", type=int, default=1264, help="images of the target (VIPeR's)")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--config-file", default=str(_ROOT / "configs" / "MetaBIN-demo.yml"))
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")


def run(args: argparse.Namespace) -> Report:
    """Measure."""
    logging.getLogger("fastreid").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, args.images)
        setting = (args.config_file, args.opts, folder, args.images, args.splits)
        arms = {arm: prepare(arm, *setting) for arm in (TOGETHER, ALONE)}
        seconds = times_in_turns(arms, args.repetitions)
        rows = [
            Arm(arm, seconds[arm], measure_apart(_run_once, arm, *setting)[1])
            for arm in (TOGETHER, ALONE)
        ]
    title = f"Evaluation of {args.splits} splits of {args.images:,} images, {args.config_file}"
    return Report(title, rows)


def write_images(folder: Path, count: int) -> None:
    """Noise, of the size that VIPeR has."""
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (128, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.bmp")


def draw_splits(folder: Path, images: int, splits: int) -> list[Split]:
    """Two images a person, one in each camera; half of the persons in each split."""
    random = np.random.default_rng(0)
    drawn = [random.permutation(images // 2)[: images // 4].tolist() for _ in range(splits)]
    return [
        (
            [(str(folder / f"{2 * person}.bmp"), person, 0) for person in persons],
            [(str(folder / f"{2 * person + 1}.bmp"), person, 1) for person in persons],
        )
        for persons in drawn
    ]


def prepare(
    arm: str, config_file: str, opts: list[str], folder: Path, images: int, splits: int
) -> Callable[[], Any]:
    """Register the arm's data sets and build its network; the call that evaluates."""
    drawn = draw_splits(folder, images, splits)
    groups = [drawn] if arm == TOGETHER else [[split] for split in drawn]
    names = []
    for number, group in enumerate(groups):
        names.append(f"benchmark, {arm}, {number}")
        DATASET_REGISTRY._obj_map[names[-1]] = functools.partial(Target, group)
    cfg: CfgNode = read_config(config_file, opts)
    cfg.DATASETS.TESTS = tuple(names)
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.HEADS.NUM_CLASSES = 1
    torch.manual_seed(0)
    return functools.partial(MetaBINTrainer.test, cfg, MetaBINTrainer.build_model(cfg))


def _run_once(arm: str, *setting: Any) -> None:
    prepare(arm, *setting)()
