"""What two trainings have in common, as arguments and as a config."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreid.config import CfgNode

from benchmarks.arguments import add_device, add_images
from benchmarks.networks import BACKBONES, CONFIG
from metabin_plugin.engine import read_config

BATCH_NORM, METABIN = ARMS = ("batch normalization", "MetaBIN")
# What makes the paper's config one of plain training with batch normalization.
_BATCH_NORM = [
    *("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.BACKBONE.NORM", "BN"),
    *("METABIN.HOOKS", "()"),
]


@dataclass(frozen=True)
class Setting:
    """What both trainings have in common.

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


# Arguments that set a key of the config to True.
SWITCHES = {
    "channels_last": "METABIN.CHANNELS_LAST",
    "compile": "METABIN.COMPILE",
    "amp": "SOLVER.AMP.ENABLED",
}


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
