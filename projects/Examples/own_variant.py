"""A meta-learning variant of one's own: in every iteration each domain is the meta-test one once.

python projects/Examples/own_variant.py --config-file configs/MetaBIN.yml
    METABIN.HOOKS '("LeaveOneOutHook",)' [KEY VALUE ...]
"""

from __future__ import annotations

import metabin_plugin

metabin_plugin.let_waiting_threads_sleep()
metabin_plugin.register()

import torch
from fastreid.config import CfgNode
from fastreid.engine.train_loop import HookBase
from torch import Tensor

from metabin_plugin.engine import MetaBINTrainer, run_command_line
from metabin_plugin.engine.meta_learning import Episodes, mean_over_processes
from metabin_plugin.errors import ConfigError
from metabin_plugin.meta import MetaStep, meta_step
from metabin_plugin.modeling import MetaBIN
from metabin_plugin.norm import clip_gates_
from metabin_plugin.registries import HOOK_REGISTRY


@HOOK_REGISTRY.register()
class LeaveOneOutHook(HookBase):
    """Moves the gates by the mean outer gradient of as many episodes as there are domains."""

    def __init__(self, cfg: CfgNode, trainer: MetaBINTrainer) -> None:
        self.model: MetaBIN = trainer.network
        if not isinstance(self.model, MetaBIN):
            raise ConfigError(
                "METABIN.HOOKS names LeaveOneOutHook, which needs gates; set "
                "MODEL.META_ARCHITECTURE MetaBIN"
            )
        self.node = cfg.METABIN
        self.episodes = Episodes(cfg, trainer, cfg.SOLVER.IMS_PER_BATCH, "SOLVER.IMS_PER_BATCH")

    def after_step(self) -> None:
        """Run the episodes on the next balanced batch, then move and clip the gates."""
        drawn, device = next(self.trainer.base_batches), self.model.device
        batch = {name: drawn[name].to(device) for name in ("images", "targets", "domains")}
        self.episodes.check_order(batch["domains"])
        batch["images"] = self.model.preprocess_image(batch)
        domains = range(self.episodes.num_domains)
        steps = [self.episode(batch, meta_test=domain) for domain in domains]
        with torch.no_grad():
            for name, gate in self.model.gates.items():
                gradients = torch.stack([step.outer_gradients[name] for step in steps])
                gate.sub_(self.node.OUTER_LR * gradients.mean(dim=0))
        clip_gates_(self.model)
        losses = torch.stack([v for step in steps for v in step.meta_test_losses.values()])
        self.trainer.storage.put_scalar("left_out_loss", losses.mean().item())

    def episode(self, batch: dict[str, Tensor], meta_test: int) -> MetaStep:
        """Inner step on all other domains, outer gradient on this one (Eq. 8-10)."""
        others = [d for d in range(self.episodes.num_domains) if d != meta_test]
        train, test = self.episodes.select(batch, others, [meta_test])
        return meta_step(
            self.model.gates,
            lambda gates: self.model.meta_losses(self.node.META_TRAIN_LOSSES, train, gates),
            lambda gates: self.model.meta_losses(self.node.META_TEST_LOSSES, test, gates),
            self.episodes.inner_lr(self.trainer.iter),
            second_order=self.node.SECOND_ORDER,
            average=mean_over_processes,
        )


if __name__ == "__main__":
    run_command_line()
