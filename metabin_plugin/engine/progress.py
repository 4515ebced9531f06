"""Where a run stands: all that the next iteration depends on beside networks and optimizers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from fastreid.utils import comm

from metabin_plugin import random_state
from metabin_plugin.data.identity_record import is_in_order_of_paths, record_changes
from metabin_plugin.engine.checkpoint_schema import FORMAT, check_checkpoint
from metabin_plugin.engine.config_changes import Change, config_changes, refuse_another_run
from metabin_plugin.engine.event_history import history_state
from metabin_plugin.engine.machine_record import machine_changes, machine_record
from metabin_plugin.engine.schedule import ConfiguredSettings
from metabin_plugin.errors import DatasetError
from metabin_plugin.yaml_text import read_yaml

if TYPE_CHECKING:
    from metabin_plugin.engine.trainer import MetaBINTrainer

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
