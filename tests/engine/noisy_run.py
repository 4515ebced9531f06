"""A run of seconds that depends on every random stream, for tests that start it in processes."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.engine.train_loop import HookBase
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.utils import comm
from torch import nn

from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.registries import HOOK_REGISTRY
from tests.engine.tiny_data import CONFIGS, tiny_options

OPTIONS = {
    "MODEL.BACKBONE.NAME": "build_dropout_backbone",
    "MODEL.BACKBONE.FEAT_DIM": "16",
    "METABIN.HOOKS": '("MetaLearningHook", "NoisyHook")',
    "METABIN.ITERS_PER_EPOCH": "5",
    "INPUT.FLIP.ENABLED": "True",
    "INPUT.PADDING.ENABLED": "True",
    "INPUT.REA.ENABLED": "True",
    "INPUT.CJ.ENABLED": "True",
    "SOLVER.MAX_EPOCH": "4",
    "SOLVER.CHECKPOINT_ITERS": "2",
    "SOLVER.CHECKPOINT_KEEP": "2",
    "SOLVER.WARMUP_ITERS": "7",
    "SOLVER.STEPS": "[2, 3]",
}


def build_dropout_backbone(cfg: CfgNode) -> nn.Module:
    """Two convolutions with dropout, which draws from torch's generator."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.3),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
    )


class NoisyHook(HookBase):
    """Moves a weight by what the three generators of all ranks draw, and logs it."""

    def __init__(self, cfg: CfgNode, trainer: MetaBINTrainer) -> None:
        self.weight = trainer.network.heads.bottleneck[0].weight

    def after_step(self) -> None:
        own = random.gauss(0, 1) + np.random.standard_normal() + torch.randn(()).item()
        noise = sum(comm.all_gather(own))
        with torch.no_grad():
            self.weight += 1e-3 * noise
        self.trainer.storage.put_scalar("noise", noise)


class HeldHook(HookBase):
    """Changes nothing, and waits where a test interferes.

    From iteration 3 on as long as there is a file ``hold`` beside the folder of the run, in which
    it leaves a file ``held``.
    """

    def __init__(self, cfg: CfgNode, trainer: MetaBINTrainer) -> None:
        self.folder = Path(cfg.OUTPUT_DIR)

    def after_step(self) -> None:
        while self.trainer.iter >= 3 and (self.folder.parent / "hold").exists():
            (self.folder / "held").touch()
            time.sleep(0.01)


def register() -> None:
    """Make backbone and hook known, in this process."""
    if "build_dropout_backbone" not in BACKBONE_REGISTRY._obj_map:
        BACKBONE_REGISTRY.register(build_dropout_backbone)
        for hook in (NoisyHook, HeldHook):
            HOOK_REGISTRY.register(hook)


def noisy_options(folder: Path, **changes: Any) -> list[str]:
    """KEY VALUE pairs for a run on data in a folder; ``changes`` has ``__`` for dots."""
    options = tiny_options(folder)
    merged = dict(zip(options[::2], options[1::2], strict=True)) | OPTIONS
    merged |= {key.replace("__", "."): str(value) for key, value in changes.items()}
    return [part for pair in merged.items() for part in pair]


def noisy_trainer(options: list[str], resume: bool = False) -> MetaBINTrainer:
    """A trainer that is ready to train."""
    register()
    torch.set_num_threads(1)
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "MetaBIN.yml"))
    cfg.merge_from_list(options)
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    trainer = MetaBINTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def train(options: list[str], resume: bool = False) -> None:
    """Train to the end."""
    noisy_trainer(options, resume).train()
