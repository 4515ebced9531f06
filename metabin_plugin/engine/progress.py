"""Where a run stands: all that the next iteration depends on beside networks and optimizers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastreid.utils import comm

from metabin_plugin import random_state
from metabin_plugin.engine.config_changes import Change, config_changes
from metabin_plugin.engine.event_history import history_state, restore_history
from metabin_plugin.engine.schedule import ConfiguredSettings

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
        ``epoch``, under which plain fastreid looks; ``config``, the run's; and ``progress``: the
        iteration, position and seed of the stream of batches, the log's scalars and the random
        states of every process. ``torch.load`` reads all of it with ``weights_only=True``.
    """
    batches = trainer.base_batches
    return {
        "epoch": epoch,
        "config": trainer.cfg.dump(),
        "progress": {
            "iteration": iteration,
            "batches": batches.state_dict() if hasattr(batches, "state_dict") else None,
            "scalars": history_state(trainer.storage),
            "random_states": comm.gather(random_state.capture()),
        },
    }


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
        if self._progress is None:
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
            restore_history(trainer.storage, self._progress["scalars"])

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
