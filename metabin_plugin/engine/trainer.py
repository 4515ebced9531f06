"""fastreid's DefaultTrainer with the plugin wired in."""

from __future__ import annotations

from typing import Any

from fastreid.config import CfgNode
from fastreid.engine import DefaultTrainer
from fastreid.engine.train_loop import HookBase
from fastreid.utils import comm
from fastreid.utils.env import seed_all_rng
from torch import nn
from torch.optim import Optimizer

from metabin_plugin.engine.clip_gates import ClipGatesHook
from metabin_plugin.engine.config_check import check_config
from metabin_plugin.engine.schedule import steps_from_start
from metabin_plugin.errors import ConfigError
from metabin_plugin.evaluation import write_results
from metabin_plugin.norm import gate_parameters
from metabin_plugin.registries import HOOK_REGISTRY


class MetaBINTrainer(DefaultTrainer):
    """Trains what the config says; with a config that uses nothing of the plugin, as fastreid does.

    It adds to ``DefaultTrainer``: an early check of the config, the seed, hooks by name
    (``METABIN.HOOKS``; they run inside the measured iteration), their checkpointed state, the
    length of an epoch, the number of base updates in the first iteration and a results file.

    Args:
        cfg: the config with the METABIN node.

    Raises:
        MetaBINError: config or data cannot work.
    """

    def __init__(self, cfg: CfgNode) -> None:
        check_config(cfg)
        if cfg.METABIN.SEED >= 0:
            seed_all_rng(cfg.METABIN.SEED + comm.get_rank())
        self._configured_iters = cfg.METABIN.ITERS_PER_EPOCH
        super().__init__(cfg)
        self.checkpointer.checkpointables.update(
            {name: hook for name, hook in self._named_hooks.items() if hasattr(hook, "state_dict")}
        )

    @property
    def iters_per_epoch(self) -> int:
        """Iterations in an epoch: ``METABIN.ITERS_PER_EPOCH``, or fastreid's rule where it is 0."""
        return self._iters_per_epoch

    @iters_per_epoch.setter
    def iters_per_epoch(self, value: int) -> None:
        # DefaultTrainer assigns this in its constructor, before it builds schedules and hooks.
        self._iters_per_epoch = self._configured_iters or value
        if self._iters_per_epoch == 0:
            raise ConfigError(
                "SOLVER.IMS_PER_BATCH is larger than the training set, which leaves epochs without "
                "an iteration; lower it, or set METABIN.ITERS_PER_EPOCH"
            )

    def build_hooks(self) -> list[HookBase]:
        """fastreid's hooks behind those of ``METABIN.HOOKS``, so that its timer measures them."""
        self._named_hooks = {
            name: HOOK_REGISTRY.get(name)(self.cfg, self) for name in self.cfg.METABIN.HOOKS
        }
        hooks = list(self._named_hooks.values())
        if any(gate.requires_grad for gate in gate_parameters(self.model).values()):
            hooks.insert(0, ClipGatesHook(self.model))
        return hooks + super().build_hooks()

    def run_step(self) -> None:
        """Base step; ``METABIN.FIRST_BASE_UPDATES`` of them in the very first iteration."""
        updates = self.cfg.METABIN.FIRST_BASE_UPDATES if self.iter == 0 else 1
        for _ in range(updates):
            super().run_step()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """fastreid's ``build_model`` on a checked config."""
        check_config(cfg)
        return super().build_model(cfg)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """fastreid's ``test``; the results are also in ``results.json`` in ``OUTPUT_DIR``."""
        results = super().test(cfg, model)
        if comm.is_main_process() and cfg.OUTPUT_DIR:
            write_results(results, cfg.DATASETS.TESTS, cfg.OUTPUT_DIR)
        return results

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: Optimizer, iters_per_epoch: int
    ) -> dict[str, Any]:
        """fastreid's schedules, with ``METABIN.STEPS_COUNT_WARMUP`` honoured."""
        if cfg.METABIN.STEPS_COUNT_WARMUP:
            cfg = steps_from_start(cfg, iters_per_epoch)
        return super().build_lr_scheduler(cfg, optimizer, iters_per_epoch)
