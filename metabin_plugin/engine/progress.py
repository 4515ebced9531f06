"""Where a run stands: all that the next iteration depends on beside networks and optimizers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.utils import comm
from fastreid.utils.events import EventStorage
from torch.optim import Optimizer

from metabin_plugin import random_state
from metabin_plugin.config.changes import config_changes
from metabin_plugin.config.reading import read_yaml
from metabin_plugin.data.domains import is_in_order_of_paths, record_changes
from metabin_plugin.engine.checkpoint_schema import FORMAT, machine_changes, machine_record
from metabin_plugin.engine.log import RunStorage, history_state
from metabin_plugin.errors import DatasetError

logger = logging.getLogger(__name__)


def progress_state(
    cfg: CfgNode,
    iteration: int,
    epoch: int,
    *,
    batches: Any,
    storage: EventStorage,
    training_data: Mapping[str, Any],
) -> dict[str, Any]:
    """What a checkpoint holds beside the states of the checkpointables.

    All processes must call it together, between two iterations.

    Args:
        cfg: config of the run.
        iteration: number of the next iteration.
        epoch: number of the last epoch that is finished with its evaluation; -1 for none.
        batches: the training's stream of batches.
        storage: the scalars of the log.
        training_data: ``training_record`` of its images.

    Returns:
        The entries ``format``, ``epoch``, under which plain fastreid looks, ``config`` and
        ``progress`` of ``checkpoint_schema``.
    """
    return {
        "format": FORMAT,
        "epoch": epoch,
        "config": cfg.dump(),
        "progress": {
            "iteration": iteration,
            "batches": batches.state_dict() if hasattr(batches, "state_dict") else None,
            "scalars": history_state(storage),
            "random_states": comm.gather(random_state.capture()),
            "data": training_data,
            "machine": machine_record(torch.device(cfg.MODEL.DEVICE)),
        },
    }


def refuse_other_data(
    content: Mapping[str, Any], dataset: Any, training_data: Mapping[str, Any], source: str
) -> None:
    """Refuse to resume a training on other images, or on people that are numbered otherwise.

    Args:
        content: the checkpoint, whose entries are what they should be.
        dataset: the images of the run that goes on.
        training_data: their ``training_record``.
        source: the checkpoint's file, for the message.

    Raises:
        DatasetError: they are others.
    """
    changes = _data_changes(content, dataset, training_data)
    if changes:
        raise DatasetError(
            f"--resume goes on from {source}, whose training data were others: "
            f"{'; '.join(changes)}; put the data back as they were, or start anew from its "
            "weights, as MODEL.WEIGHTS without --resume"
        )


def _data_changes(
    content: Mapping[str, Any], dataset: Any, training_data: Mapping[str, Any]
) -> list[str]:
    if "progress" not in content:
        return []
    then = content["progress"].get("data")
    if then is not None:
        return record_changes(then, training_data)
    if "config" in content and not is_in_order_of_paths(dataset, _data_sets(content["config"])):
        return [
            "version 0.1, which made it, numbered the people by the paths of their manifests, and "
            "the classifier's rows would now be of others"
        ]
    return []


def _data_sets(config: str) -> list[str]:
    """``DATASETS.NAMES`` of the text of a config; none where it has no such list of names."""
    match read_yaml(config):
        case {"DATASETS": {"NAMES": list(names)}}:
            return [name for name in names if isinstance(name, str)]
    return []


def optimizer_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The config's settings of an optimizer, which loading its state will overwrite.

    A state holds beside what the optimizer has learnt (moments, counts) the settings of the run
    that saved it: step sizes, momentum, weight decay.

    Args:
        optimizer: as it was built.

    Returns:
        Those of each group of parameters.
    """
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


class Resumption:
    """Where a checkpoint was made, and how a run goes on from there.

    Args:
        checkpoint: what ``Checkpointer.load`` leaves over.
        source: name of the checkpoint, for the log.
        cfg: config of the run that goes on.
        iters_per_epoch: iterations in its epochs.

    Attributes:
        epoch: number of the first epoch.
        iteration: number of the first iteration.
        keeps_best: whether metrics of before and after can be compared.
    """

    def __init__(
        self, checkpoint: Mapping[str, Any], source: str, cfg: CfgNode, iters_per_epoch: int
    ) -> None:
        self._cfg, self._iters_per_epoch, self._source = cfg, iters_per_epoch, source
        self._progress: dict[str, Any] | None = checkpoint.get("progress")
        self.epoch = int(checkpoint.get("epoch", -1)) + 1
        self.iteration = self.epoch * iters_per_epoch
        if self._progress is not None:
            self.iteration = self._progress["iteration"]
        saved: str | None = checkpoint.get("config")
        self._changes = [] if saved is None else config_changes(saved, cfg)
        self.keeps_best = not any(change.is_of_metric for change in self._changes)

    def report(self) -> None:
        """Tell the log in what this run differs from the one that made the checkpoint."""
        if self._changes:
            lines = "\n  ".join(f"{change}  ({change.outcome.value})" for change in self._changes)
            logger.warning(
                "from iteration %d on, the config differs from that of %s:\n  %s",
                self.iteration,
                self._source,
                lines,
            )
        if self._progress is not None:
            self._report_machine(self._progress.get("machine"))
        else:
            logger.warning(
                "%s was not made by this plugin: it goes on at the start of epoch %d, with its own "
                "learning rate, and with other batches and random numbers than an uninterrupted "
                "run",
                self._source,
                self.epoch,
            )

    def _report_machine(self, then: Mapping[str, str] | None) -> None:
        if then is None:
            logger.info("%s does not say on what machine it was made", self._source)
            return
        changes = machine_changes(then, machine_record(torch.device(self._cfg.MODEL.DEVICE)))
        if changes:
            logger.warning(
                "%s was made with other libraries or on another machine, so the last bits of what "
                "follows may differ from those of an uninterrupted run:\n  %s",
                self._source,
                "\n  ".join(changes),
            )

    def renew_schedules(
        self,
        optimizer: Optimizer,
        settings: list[dict[str, Any]],
        schedules: dict[str, Any],
        build: Callable[[], dict[str, Any]],
    ) -> bool:
        """Put optimizer and schedules where a run that had this config from its start would be.

        Nothing is done where no key of theirs has changed.

        Args:
            optimizer: with the state of the checkpoint.
            settings: its ``optimizer_settings`` from before.
            schedules: by name, with the states of the checkpoint; replaced in place.
            build: builds the config's schedules.

        Returns:
            Whether there are new schedules.
        """
        then = {change.key: change.then for change in self._changes if change.is_of_schedule}
        if not then:
            return False
        solver = self._cfg.SOLVER
        warmup_then = then.get("SOLVER.WARMUP_ITERS", solver.WARMUP_ITERS)
        uncounted = 0
        if warmup_then and "warmup_sched" in schedules:
            # With a loss scale, an iteration whose update was skipped did not count.
            counted = schedules["warmup_sched"].last_epoch
            uncounted = min(self.iteration, warmup_then) - counted
        for group, own in zip(optimizer.param_groups, settings, strict=True):
            group.update(own)
            group["lr"] = group.pop("initial_lr")
        renewed = build()
        warmup_steps = max(0, min(self.iteration, solver.WARMUP_ITERS) - uncounted)
        steps = {"warmup_sched": warmup_steps, "lr_sched": self._epoch_steps()}
        with warnings.catch_warnings():
            # Of the optimizer of this process, which has made no step yet.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for name, count in steps.items():
                for _ in range(count):
                    renewed[name].step()
        # fastreid's hook holds the dictionary.
        schedules.clear()
        schedules.update(renewed)
        return True

    def _epoch_steps(self) -> int:
        """Steps of the epoch scheduler until now: after each epoch that ends after the warm-up."""
        solver, length = self._cfg.SOLVER, self._iters_per_epoch
        return sum(
            epoch * length >= solver.WARMUP_ITERS and epoch > solver.DELAY_EPOCHS
            for epoch in range(1, self.epoch + 1)
        )

    def restore_batches(self, batches: Any) -> None:
        """Put the training's stream of batches where the checkpoint's was."""
        if self._progress is not None and self._progress["batches"] is not None:
            batches.load_state_dict(self._progress["batches"])

    def restore_history(self, storage: RunStorage) -> None:
        """Put the scalars of the log into a new storage."""
        if self._progress is not None:
            storage.restore(self._progress["scalars"])

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
