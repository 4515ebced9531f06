"""A trainer in the middle of a run."""

from __future__ import annotations

from fastreid.config import CfgNode
from fastreid.utils.events import EventStorage

from metabin_plugin.engine import MetaBINTrainer


def started(cfg: CfgNode) -> MetaBINTrainer:
    """A trainer ready for single iterations."""
    trainer = MetaBINTrainer(cfg)
    trainer.iter = trainer.start_iter = trainer.epoch = 0
    trainer.storage = EventStorage(0)
    return trainer
