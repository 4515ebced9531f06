"""When checkpoints are made, under which names, and which ones are kept."""

from __future__ import annotations

import os
import re
from typing import Any

from fastreid.config import CfgNode
from fastreid.engine.train_loop import HookBase
from fastreid.utils import comm

from metabin_plugin.engine.checkpoint_schema import check_metric
from metabin_plugin.engine.finite import require_finite_weights
from metabin_plugin.engine.progress import progress_state
from metabin_plugin.text import shown

# Made at the end of an epoch, before its evaluation; the next one takes its place.
BEFORE_TEST = "model_before_test"
FINAL = "model_final"
# Of epochs and of iterations.
_PERIODIC = re.compile(r"model_(iter_[0-9]{7,}|[0-9]{4,})")


class CheckpointHook(HookBase):
    """Writes checkpoints as fastreid does, and inside an epoch; must be the last of the hooks.

    ``model_EPOCH``, ``model_best`` and ``model_final`` are fastreid's. ``model_iter_N`` was made
    inside an epoch, when the next iteration was N. All processes of a run have this hook, as each
    adds its random state; the main one writes.

    Args:
        cfg: the config, whose ``SOLVER.CHECKPOINT_...`` keys apply.
    """

    def __init__(self, cfg: CfgNode) -> None:
        solver = cfg.SOLVER
        self._every_epochs, self._every_iters = solver.CHECKPOINT_PERIOD, solver.CHECKPOINT_ITERS
        self._keep = solver.CHECKPOINT_KEEP
        tests = cfg.DATASETS.TESTS
        self._metric_name = "metric" if len(tests) == 1 else f"{tests[0] if tests else ''}/metric"
        self._best_metric = -1.0
        self._periodic: list[str] = []
        self._saved_at: tuple[int, int] | None = None

    def before_train(self) -> None:
        """Remove what an earlier run could not, that ended after it had written the newest."""
        self._prune()

    def after_step(self) -> None:
        """Checkpoint inside the epoch, every ``SOLVER.CHECKPOINT_ITERS`` iterations."""
        done = self.trainer.iter + 1
        if done % self.trainer.iters_per_epoch != 0 and self._is_due(done):
            self._save_periodic(f"model_iter_{done:07d}", done, self.trainer.epoch - 1)

    def after_epoch(self) -> None:
        """Checkpoint every ``SOLVER.CHECKPOINT_PERIOD`` epochs, and after the last one."""
        epoch, iteration = self.trainer.epoch, self.trainer.iter
        is_last = self._is_last_epoch()
        if not is_last and (epoch + 1) % self._every_epochs != 0:
            if self._is_due(iteration):
                self._save_periodic(f"model_iter_{iteration:07d}", iteration, epoch)
            return
        metric = self._metric()
        if metric > self._best_metric:
            self._best_metric = metric
            self._save("model_best", iteration, epoch, tag_last=False)
        if is_last:
            self._save(FINAL, iteration, epoch)
            self._remove(BEFORE_TEST)
        else:
            self._save_periodic(f"model_{epoch:04d}", iteration, epoch)

    def save_before_test(self) -> None:
        """Checkpoint at the end of an epoch, so that an evaluation that fails costs nothing.

        That of the last epoch is ``model_final`` already, however the evaluation ends.
        """
        name = FINAL if self._is_last_epoch() else BEFORE_TEST
        self._save(name, self.trainer.iter, self.trainer.epoch - 1)

    def save_before_stop(self, finished_epoch: int) -> None:
        """Checkpoint between two iterations, unless the last one made is as far.

        Args:
            finished_epoch: number of the last finished epoch.
        """
        iteration = self.trainer.iter
        if self._saved_at != (iteration, finished_epoch):
            self._save_periodic(f"model_iter_{iteration:07d}", iteration, finished_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The best metric so far, and the periodic checkpoints that are still there."""
        return {"best_metric": self._best_metric, "periodic": list(self._periodic)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: it is not one, as where it names other files than this hook writes.
        """
        best, periodic = state["best_metric"], state["periodic"]
        check_metric(best)
        if not isinstance(periodic, list) or not all(map(_is_periodic, periodic)):
            raise ValueError(f"periodic is {shown(repr(periodic))}, not names of checkpoints")
        self._best_metric, self._periodic = best, list(periodic)

    def forget_best(self) -> None:
        """Let the next metric be the best, as earlier ones cannot be compared with it."""
        self._best_metric = -1.0

    def _is_last_epoch(self) -> bool:
        return self.trainer.epoch >= self.trainer.max_epoch - 1

    def _is_due(self, iteration: int) -> bool:
        return self._every_iters > 0 and iteration % self._every_iters == 0

    def _metric(self) -> float:
        latest = self.trainer.storage.latest()
        own = latest[self._metric_name][0] if self._metric_name in latest else -1.0
        # Only the main process has results; all must agree on what to save.
        return float(comm.all_gather(own)[0])

    def _save_periodic(self, name: str, iteration: int, epoch: int) -> None:
        # The checkpoint lists itself, for the run that goes on from it.
        self._periodic = [other for other in self._periodic if other != name] + [name]
        self._save(name, iteration, epoch)
        self._prune()

    def _prune(self) -> None:
        while 0 < self._keep < len(self._periodic):
            self._remove(self._periodic.pop(0))

    def _save(self, name: str, iteration: int, epoch: int, tag_last: bool = True) -> None:
        require_finite_weights(self.trainer)
        trainer = self.trainer
        progress = progress_state(
            trainer.cfg,
            iteration,
            epoch,
            batches=trainer.base_batches,
            storage=trainer.storage,
            training_data=trainer.training_data,
        )
        trainer.checkpointer.save(name, tag_last=tag_last, metric=self._metric(), **progress)
        if tag_last:
            self._saved_at = (iteration, epoch)

    def _remove(self, name: str) -> None:
        path = os.path.join(self.trainer.checkpointer.save_dir, f"{name}.pth")
        if comm.is_main_process() and os.path.isfile(path) and not os.path.islink(path):
            os.remove(path)


def _is_periodic(name: Any) -> bool:
    """Whether it is the name of a periodic checkpoint, without a path."""
    return isinstance(name, str) and _PERIODIC.fullmatch(name) is not None
