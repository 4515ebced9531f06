"""Where a run stands: all that the next iteration depends on beside networks and optimizers."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from fastreid.config import CfgNode
from fastreid.utils import comm

from metabin_plugin import random_state
from metabin_plugin.config.changes import Change, config_changes, refuse_another_run
from metabin_plugin.config.yaml_text import read_yaml
from metabin_plugin.data.identity_record import is_in_order_of_paths, record_changes
from metabin_plugin.engine.checkpoint_schema import FORMAT, check_checkpoint
from metabin_plugin.engine.log import history_state
from metabin_plugin.engine.machine_record import machine_changes, machine_record
from metabin_plugin.errors import DatasetError

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


logger = logging.getLogger(__name__)


def progress_state(trainer: MetaBINTrainer, iteration: int, epoch: int) -> dict[str, Any]:
    """What a checkpoint holds beside the states of the checkpointables.

    All processes must call it together.

    Args:
        trainer: a trainer between two iterations.
        iteration: number of the next iteration.
        epoch: number of the last epoch that is finished with its evaluation; -1 for none.

    Returns:
        The entries ``format``, ``epoch``, under which plain fastreid looks, ``config`` and
        ``progress`` of ``checkpoint_schema``.
    """
    batches = trainer.base_batches
    return {
        "format": FORMAT,
        "epoch": epoch,
        "config": trainer.cfg.dump(),
        "progress": {
            "iteration": iteration,
            "batches": batches.state_dict() if hasattr(batches, "state_dict") else None,
            "scalars": history_state(trainer.storage),
            "random_states": comm.gather(random_state.capture()),
            "data": trainer.training_data,
            "machine": machine_record(_device(trainer)),
        },
    }


def check_resumable(content: dict[str, Any], trainer: MetaBINTrainer, source: str) -> None:
    """Refuse a checkpoint from which a trainer cannot go on; nothing of it is applied here.

    Args:
        content: the checkpoint; the state of a schedule that is made anew is replaced in it.
        trainer: the trainer.
        source: the checkpoint's file, for the message.

    Raises:
        WeightsError: an entry is not what a checkpoint has there.
        DatasetError: it is of other training data, or numbers their people otherwise.
        ConfigError: its run had a key otherwise that a run cannot change.
    """
    check_checkpoint(content, trainer, source)
    changes = _data_changes(content, trainer)
    if changes:
        raise DatasetError(
            f"--resume goes on from {source}, whose training data were others: "
            f"{'; '.join(changes)}; put the data back as they were, or start anew from its "
            "weights, as MODEL.WEIGHTS without --resume"
        )
    if "config" in content:
        network: Any = getattr(trainer.model, "module", trainer.model)
        refuse_another_run(content["config"], trainer.cfg, network, source)
        if any(c.key == "SOLVER.SCHED" for c in config_changes(content["config"], trainer.cfg)):
            # The state of another schedule is of no use to this one, which is made anew.
            content["lr_sched"] = trainer.scheduler["lr_sched"].state_dict()


def _data_changes(content: Mapping[str, Any], trainer: MetaBINTrainer) -> list[str]:
    if "progress" not in content:
        return []
    then, dataset = content["progress"].get("data"), trainer.data_loader.dataset
    if then is not None:
        return record_changes(then, trainer.training_data)
    if "config" in content and not is_in_order_of_paths(dataset, _data_sets(content["config"])):
        return [
            "version 0.1, which made it, numbered the people by the paths of their manifests, and "
            "the classifier's rows would now be of others"
        ]
    return []


class Resumption:
    """Takes a trainer back to where a checkpoint was made.

    Args:
        checkpoint: what ``Checkpointer.load`` leaves over.
        source: name of the checkpoint, for the log.

    Attributes:
        keeps_best: whether metrics of before and after can be compared.
    """

    def __init__(self, checkpoint: dict[str, Any], source: str) -> None:
        self.keeps_best = True
        self._epoch = int(checkpoint.get("epoch", -1))
        self._config: str | None = checkpoint.get("config")
        self._progress: dict[str, Any] | None = checkpoint.get("progress")
        self._source = source

    def apply(self, trainer: MetaBINTrainer, configured: ConfiguredSettings) -> None:
        """Set epoch, iteration and batches; let keys of the config that have changed take effect.

        Args:
            trainer: a trainer with the states of the checkpoint.
            configured: its settings from before these were loaded.
        """
        trainer.start_epoch = self._epoch + 1
        trainer.start_iter = trainer.start_epoch * trainer.iters_per_epoch
        if self._progress is not None:
            trainer.start_iter = self._progress["iteration"]
        if self._config is not None:
            self._follow(config_changes(self._config, trainer.cfg), trainer, configured)
        if self._progress is not None:
            self._log_machine(machine_record(_device(trainer)))
        else:
            logger.warning(
                "%s was not made by this plugin: it goes on at the start of epoch %d, with its own "
                "learning rate, and with other batches and random numbers than an uninterrupted "
                "run",
                self._source,
                trainer.start_epoch,
            )
            return
        if self._progress["batches"] is not None:
            trainer.base_batches.load_state_dict(self._progress["batches"])

    def restore_history(self, trainer: MetaBINTrainer) -> None:
        """Put the scalars of the log into the trainer's new storage."""
        if self._progress is not None:
            trainer.storage.restore(self._progress["scalars"])

    def restore_randomness(self) -> None:
        """Set the random generators of this process; the last thing before the first iteration."""
        if self._progress is None:
            return
        states = self._progress["random_states"]
        if len(states) == comm.get_world_size():
            random_state.restore(states[comm.get_rank()])
        else:
            logger.warning(
                "%s was made by %d processes and goes on in %d: the result will differ from that "
                "of an uninterrupted run",
                self._source,
                len(states),
                comm.get_world_size(),
            )

    def _follow(
        self, changes: list[Change], trainer: MetaBINTrainer, configured: ConfiguredSettings
    ) -> None:
        if not changes:
            return
        lines = "\n  ".join(f"{change}  ({change.outcome.value})" for change in changes)
        logger.warning(
            "from iteration %d on, the config differs from that of %s:\n  %s",
            trainer.start_iter,
            self._source,
            lines,
        )
        of_schedule = {change.key: change.then for change in changes if change.is_of_schedule}
        if of_schedule:
            now = trainer.cfg.SOLVER.WARMUP_ITERS
            configured.apply(trainer, of_schedule.get("SOLVER.WARMUP_ITERS", now))
        self.keeps_best = not any(change.is_of_metric for change in changes)

    def _log_machine(self, now: Mapping[str, str]) -> None:
        assert self._progress is not None
        then = self._progress.get("machine")
        if then is None:
            logger.info("%s does not say on what machine it was made", self._source)
            return
        changes = machine_changes(then, now)
        if changes:
            logger.warning(
                "%s was made with other libraries or on another machine, so the last bits of what "
                "follows may differ from those of an uninterrupted run:\n  %s",
                self._source,
                "\n  ".join(changes),
            )


def _device(trainer: MetaBINTrainer) -> torch.device:
    return torch.device(trainer.cfg.MODEL.DEVICE)


def _data_sets(config: str) -> list[str]:
    """``DATASETS.NAMES`` of the text of a config; none where it has no such list of names."""
    match read_yaml(config):
        case {"DATASETS": {"NAMES": list(names)}}:
            return [name for name in names if isinstance(name, str)]
    return []
