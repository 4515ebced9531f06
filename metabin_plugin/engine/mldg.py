"""MLDG (Li et al. 2018; Table 3 of the paper) as a fastreid hook."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.engine import DefaultTrainer
from fastreid.engine.train_loop import HookBase
from fastreid.utils.events import EventStorage
from torch import Tensor, nn

from metabin_plugin.compat.training import autocast_dtype
from metabin_plugin.engine.checkpoint_schema import check_count
from metabin_plugin.engine.finite import Fault, largest_magnitudes, nonfinite_error, nonfinite_names
from metabin_plugin.engine.meta_learning import Episodes, mean_over_processes
from metabin_plugin.errors import ConfigError, NonFiniteError
from metabin_plugin.meta import MLDGStep, held_call, mldg_step
from metabin_plugin.norm import gate_parameters

_RATES = ("METABIN.INNER_LR.HIGH", "SOLVER.BASE_LR")


class MLDGHook(HookBase):
    """Makes each base step one of MLDG, for any meta-architecture.

    The base step sees the meta-train domains of its mini-batch alone. Before its optimizer moves
    all parameters, the gradient of the same losses on the meta-test domains, at the parameters that
    the inner step would give, is added to theirs. It keeps nothing between iterations but the seed.

    Args:
        cfg: the config with the METABIN node.
        trainer: a trainer that already has its model, optimizer and data loader.

    Raises:
        ConfigError: a key asks for what MLDG does not do here, or the domains do not suffice.
    """

    def __init__(self, cfg: CfgNode, trainer: DefaultTrainer) -> None:
        self.model: nn.Module = trainer.network
        _check_keys(cfg, self.model)
        self.episodes = Episodes(cfg, trainer, cfg.SOLVER.IMS_PER_BATCH, "SOLVER.IMS_PER_BATCH")
        self._device = torch.device(cfg.MODEL.DEVICE)
        self._autocast: dict[str, Any] = {
            "dtype": autocast_dtype(self._device, cfg.SOLVER.AMP.DTYPE),
            "enabled": cfg.SOLVER.AMP.ENABLED,
        }
        self._meta_test: dict[str, Any] = {}
        trainer.optimizer.register_step_pre_hook(self._add_meta_test)

    def base_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the base step sees of a batch: the meta-train domains. The others wait for MLDG's.

        Args:
            batch: of the trainer's stream.
        """
        self.episodes.check_order(batch["domains"])
        train, self._meta_test = self.episodes.select(batch, *self.split(self.trainer.iter))
        return train

    def split(self, iteration: int) -> tuple[list[int], list[int]]:
        """Meta-train and meta-test domains of an iteration."""
        return self.episodes.split(iteration)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside model and optimizer."""
        return {"seed": self.episodes.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: it is not one.
        """
        check_count(state["seed"])
        self.episodes.seed = state["seed"]

    def _add_meta_test(self, *_arguments: Any) -> None:
        parameters = dict(self.model.named_parameters())
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        inner_lr = self.episodes.inner_lr(self.trainer.iter)
        step = mldg_step(
            {name: parameters[name] for name in gradients},
            gradients,
            self._losses,
            inner_lr,
            gates=[name for name in gate_parameters(self.model) if name in gradients],
            average=mean_over_processes,
        )
        meta_train_is_sound, meta_test_is_sound, losses = _read(step, gradients)
        # What is wrong with the meta-train gradient, the base step's own check says.
        if not meta_train_is_sound:
            return
        if not meta_test_is_sound:
            raise self._error(step, losses)
        for name, gradient in gradients.items():
            # In place: it is a part of the buffer that fastreid's optimizer reads.
            gradient.copy_(step.gradients[name])
        self.trainer.storage.put_scalars(**losses)
        self.trainer.storage.put_scalar("inner_lr", inner_lr, smoothing_hint=False)

    def _losses(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # The architecture logs an accuracy; the one to keep is that of the meta-train domains.
        with EventStorage(), torch.autocast(self._device.type, **self._autocast):
            return held_call(self.model, self._meta_test, parameters=parameters)

    def _error(self, step: MLDGStep, losses: dict[str, float]) -> NonFiniteError:
        # The backward pass meets the layers in reverse.
        gradient = next(reversed(nonfinite_names(step.meta_test_gradients)), "a parameter")
        is_loss = not all(map(math.isfinite, losses.values()))
        what = "the meta-test loss" if is_loss else f"the meta-test gradient of {gradient}"
        return nonfinite_error(
            self.trainer,
            # The base step of this iteration comes after it.
            Fault(what, losses, _RATES if self.trainer.iter else _RATES[:1]),
            self.model,
            lambda: self._losses(step.inner_parameters),
        )


def _read(
    step: MLDGStep, meta_train_gradients: Mapping[str, Tensor]
) -> tuple[bool, bool, dict[str, float]]:
    """Whether the numbers of either stage are finite, in all processes; and the losses, by name.

    All are read from the device at once.
    """
    of_train = meta_train_gradients.values()
    of_test = (*step.meta_test_gradients.values(), *step.meta_test_losses.values())
    largest = largest_magnitudes([*of_train, *of_test])
    numbers = iter(torch.stack([*largest, *step.meta_test_losses.values()]).tolist())
    train, test = (
        all([math.isfinite(next(numbers)) for _ in tensors]) for tensors in (of_train, of_test)
    )
    names = [f"mtest_{name}" for name in step.meta_test_losses]
    return train, test, dict(zip(names, numbers, strict=True))


def _check_keys(cfg: CfgNode, model: nn.Module) -> None:
    if "MetaLearningHook" in cfg.METABIN.HOOKS:
        raise ConfigError(
            "METABIN.HOOKS names both MLDGHook and MetaLearningHook, which are two ways to "
            "meta-learn; choose one"
        )
    if cfg.METABIN.SECOND_ORDER:
        raise ConfigError(
            "METABIN.SECOND_ORDER is True, but MLDGHook is of first order; set it to False"
        )
    if cfg.METABIN.INNER_DIRECTION != "gradient":
        raise ConfigError(
            f"METABIN.INNER_DIRECTION is {cfg.METABIN.INNER_DIRECTION!r}, but MLDGHook's inner "
            "step follows the gradient; set it to gradient"
        )
    if any(not gate.requires_grad for gate in gate_parameters(model).values()):
        raise ConfigError(
            "METABIN.HOOKS names MLDGHook, which moves all parameters, but META_ARCHITECTURE "
            "MetaBIN keeps the gates from the base step; take Baseline"
        )
    device = torch.device(cfg.MODEL.DEVICE)
    if cfg.SOLVER.AMP.ENABLED and autocast_dtype(device, cfg.SOLVER.AMP.DTYPE) is torch.float16:
        raise ConfigError(
            "SOLVER.AMP.DTYPE is float16 (or auto, on CUDA), for which MLDGHook has no loss scale; "
            "set it to bfloat16"
        )
