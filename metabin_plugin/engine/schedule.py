"""Where the learning rate stands: from the start of training, and in a run that goes on."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from fastreid.config import CfgNode

if TYPE_CHECKING:
    from metabin_plugin.engine.trainer import MetaBINTrainer


def steps_from_start(cfg: CfgNode, iters_per_epoch: int) -> CfgNode:
    """A config whose ``SOLVER.STEPS`` make fastreid decay at these epochs of the whole training.

    fastreid's epoch scheduler starts with the epoch in which the warm-up ends, so its milestones
    lie later by the epochs before.

    Args:
        cfg: the config; it is not changed.
        iters_per_epoch: iterations in an epoch.

    Returns:
        A copy with the milestones moved back by the epochs that the scheduler does not see.
    """
    unseen = max(0, math.ceil(cfg.SOLVER.WARMUP_ITERS / iters_per_epoch) - 1)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.STEPS = [max(1, step - unseen) for step in cfg.SOLVER.STEPS]
    return cfg


class ConfiguredSettings:
    """The config's settings of an optimizer, to be put back after its state has been loaded.

    A state holds beside what the optimizer has learnt (moments, counts) the settings of the run
    that saved it: step sizes, momentum, weight decay; and the state of a schedule its milestones.

    Args:
        trainer: a trainer before its checkpoint is loaded.
    """

    def __init__(self, trainer: MetaBINTrainer) -> None:
        self._groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in trainer.optimizer.param_groups
        ]

    def apply(self, trainer: MetaBINTrainer, warmup_then: int) -> None:
        """Let optimizer and schedules be where a run with the config from its start would be.

        Args:
            trainer: a trainer with the states of a checkpoint, and its ``start_iter``.
            warmup_then: ``SOLVER.WARMUP_ITERS`` of the run that made the checkpoint.
        """
        iteration, cfg = trainer.start_iter, trainer.cfg
        uncounted = 0
        if warmup_then and "warmup_sched" in trainer.scheduler:
            # With a loss scale, an iteration whose update was skipped did not count.
            counted = trainer.scheduler["warmup_sched"].last_epoch
            uncounted = min(iteration, warmup_then) - counted
        for group, own in zip(trainer.optimizer.param_groups, self._groups, strict=True):
            group.update(own)
            group["lr"] = group.pop("initial_lr")
        schedules = trainer.build_lr_scheduler(cfg, trainer.optimizer, trainer.iters_per_epoch)
        warmup_steps = max(0, min(iteration, cfg.SOLVER.WARMUP_ITERS) - uncounted)
        steps = {"warmup_sched": warmup_steps, "lr_sched": _epoch_steps(trainer)}
        with warnings.catch_warnings():
            # Of the optimizer of this process, which has made no step yet.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for name, count in steps.items():
                for _ in range(count):
                    schedules[name].step()
        # fastreid's hook holds the dictionary.
        trainer.scheduler.clear()
        trainer.scheduler.update(schedules)
        trainer.checkpointer.checkpointables.pop("warmup_sched", None)
        trainer.checkpointer.checkpointables.update(schedules)


def _epoch_steps(trainer: MetaBINTrainer) -> int:
    """Steps of the epoch scheduler until now: after each epoch that ends behind the warm-up."""
    solver, length = trainer.cfg.SOLVER, trainer.iters_per_epoch
    return sum(
        epoch * length >= solver.WARMUP_ITERS and epoch > solver.DELAY_EPOCHS
        for epoch in range(1, trainer.start_epoch + 1)
    )
