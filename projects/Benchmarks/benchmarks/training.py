"""The trainings that are compared: their setting, their data, and their iterations one by one.

They are run by the project's own trainer, on images in files.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.modeling.backbones import build_backbone
from fastreid.utils.events import EventStorage
from PIL import Image
from torch import Tensor, nn

from benchmarks.measuring import time_once
from metabin_plugin.engine import MetaBINTrainer, read_config

CONFIG = str(Path(__file__).resolve().parents[3] / "configs" / "MetaBIN.yml")
Shape = tuple[int, ...]

# KEY VALUE pairs on top of the paper's config; ResNet-18 is for a quick look.
BACKBONES: dict[str, list[str]] = {
    "mobilenetv2": ["MODEL.BACKBONE.DEPTH", "1.4x", "MODEL.BACKBONE.FEAT_DIM", "1792"],
    "resnet50": [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *("MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.FEAT_DIM", "2048"),
    ],
    "resnet18": [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *("MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", "512"),
    ],
}
BATCH_NORM, METABIN = ARMS = ("batch normalization", "MetaBIN")
# What makes the paper's config one of plain training with batch normalization.
_BATCH_NORM = [
    *("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.BACKBONE.NORM", "BN"),
    *("METABIN.HOOKS", "()"),
]
# Arguments that set a key of the config to True.
SWITCHES = {
    "channels_last": "METABIN.CHANNELS_LAST",
    "compile": "METABIN.COMPILE",
    "amp": "SOLVER.AMP.ENABLED",
}
DATA, BASE, META = PARTS = ("waiting for data", "base step", "meta step")
DOMAINS, IDENTITIES, IMAGES = 5, 16, 4
# Market-1501's; height, width.
SIZE = (128, 64)


@dataclass(frozen=True)
class Setting:
    """What the trainings that are compared have in common.

    Attributes:
        backbone: a key of ``BACKBONES``.
        size: height and width of the images that the network gets.
        batch: images of a base step, and of a meta step.
        device: "cpu" or "cuda".
        workers: processes that load images; 0 for none.
        switches: those of ``SWITCHES`` that are on.
        options: further KEY VALUE pairs.
    """

    backbone: str
    size: tuple[int, int]
    batch: int
    device: str
    workers: int
    switches: tuple[str, ...]
    options: tuple[str, ...]

    def __str__(self) -> str:
        height, width = self.size
        words = f"{self.backbone}, {height}x{width}, batch {self.batch}, {self.device}"
        return " ".join([words, *self.options])

    def arm(self, name: str) -> str:
        """Name in a table for one of ``ARMS`` at this setting."""
        return ", ".join([name, *self.switches])


def training_config(setting: Setting, arm: str, manifests: Sequence[str], folder: Path) -> CfgNode:
    """The paper's config at a setting, with random initial weights.

    Args:
        setting: what to train.
        arm: one of ``ARMS``.
        manifests: names of the training data.
        folder: existing folder for the trainer's files.
    """
    options = {
        "MODEL.DEVICE": setting.device,
        "MODEL.BACKBONE.PRETRAIN": "False",
        "METABIN.SEED": "0",
        "METABIN.FIRST_BASE_UPDATES": "1",
        # An epoch that does not end, so that nothing but iterations is measured.
        "METABIN.ITERS_PER_EPOCH": "1000000",
        "DATASETS.NAMES": str(tuple(manifests)),
        "DATASETS.TESTS": "()",
        "DATALOADER.NUM_WORKERS": str(setting.workers),
        "INPUT.SIZE_TRAIN": str(list(setting.size)),
        "INPUT.SIZE_TEST": str(list(setting.size)),
        "SOLVER.AMP.ENABLED": "False",
        "SOLVER.IMS_PER_BATCH": str(setting.batch),
        "TEST.EVAL_PERIOD": "0",
        "OUTPUT_DIR": str(folder),
    }
    options |= {SWITCHES[name]: "True" for name in setting.switches}
    pairs = [part for pair in options.items() for part in pair]
    plain = _BATCH_NORM if arm == BATCH_NORM else []
    return read_config(CONFIG, [*BACKBONES[setting.backbone], *pairs, *plain, *setting.options])


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


def norm_shapes(backbone: str, size: Sequence[int], batch: int) -> dict[Shape, int]:
    """The feature maps that a backbone normalizes.

    Args:
        backbone: a key of ``BACKBONES``.
        size: height and width of the images.
        batch: number of images.

    Returns:
        Each shape (N, C, H, W), and how many layers get it; the layers are 53 with both networks
        of the paper.
    """
    options = ["MODEL.BACKBONE.PRETRAIN", "False", "MODEL.BACKBONE.NORM", "BN"]
    cfg = read_config(CONFIG, [*BACKBONES[backbone], *options])
    shapes: Counter[Shape] = Counter()

    def count(_layer: nn.Module, inputs: tuple[Tensor]) -> None:
        shapes[tuple(inputs[0].shape)] += 1

    # Without memory and arithmetic: only the shapes are asked for.
    with torch.device("meta"):
        network = build_backbone(cfg)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_pre_hook(count)
        network(torch.empty((batch, 3, *size)))
    return dict(shapes)


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``: a GPU where there is one, unless told otherwise."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=found)


def add_images(parser: argparse.ArgumentParser) -> None:
    """``--size`` and ``--batch`` of the images; the paper's by default."""
    parser.add_argument(
        "--size", type=Numbers("x", 2), default=(256, 128), help="HEIGHTxWIDTH (default: 256x128)"
    )
    parser.add_argument("--batch", type=int, default=80, help="images (default: %(default)s)")


class Numbers:
    """Reads positive whole numbers, as argparse's ``type``.

    Args:
        separator: between two numbers.
        count: how many there have to be.
    """

    def __init__(self, separator: str, count: int) -> None:
        self._separator, self._count = separator, count

    def __call__(self, text: str) -> tuple[int, ...]:
        """Return the numbers.

        Raises:
            argparse.ArgumentTypeError: they are others, or other than numbers.
        """
        parts = text.split(self._separator)
        if len(parts) != self._count or not all(p.isdecimal() and int(p) > 0 for p in parts):
            form = self._separator.join(["N"] * self._count)
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form {form}")
        return tuple(map(int, parts))


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of a setting that evaluation has too."""
    parser.add_argument("--backbone", choices=BACKBONES, default="mobilenetv2")
    add_images(parser)
    add_device(parser)
    parser.add_argument("--form", help="METABIN.NORM_FORM, for example plain")
    _add_switch(parser, "channels_last")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """All arguments of a setting."""
    add_network_arguments(parser)
    _add_switch(parser, "compile")
    _add_switch(parser, "amp")
    parser.add_argument(
        "--workers",
        type=int,
        help="loader processes of each training (default: 0 on a CPU, so that none works in "
        "another's turn, 8 on a GPU)",
    )


def _add_switch(parser: argparse.ArgumentParser, name: str) -> None:
    option = f"--{name.replace('_', '-')}"
    parser.add_argument(option, action="store_true", help=f"{SWITCHES[name]} True")


def read_setting(args: argparse.Namespace) -> Setting:
    """The setting that the arguments ask for."""
    switches = tuple(name for name in SWITCHES if getattr(args, name, False))
    options = ["METABIN.NORM_FORM", args.form] if args.form else []
    workers = getattr(args, "workers", None)
    if workers is None:
        workers = 8 if args.device == "cuda" else 0
    return Setting(
        args.backbone,
        args.size,
        args.batch,
        args.device,
        workers,
        switches,
        (*options, *args.opts),
    )
