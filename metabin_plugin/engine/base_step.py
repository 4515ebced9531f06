"""The base step, stopped before the optimizer when a number is not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any

import torch
from fastreid.engine import DefaultTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from metabin_plugin.compat.training import NonFiniteLosses, Watch
from metabin_plugin.engine.finite import LOWEST_LOSS_SCALE, Fault, nonfinite_error, nonfinite_names
from metabin_plugin.errors import NonFiniteError
from metabin_plugin.meta import held_call


@contextmanager
def finite_base_step(trainer: DefaultTrainer) -> Iterator[None]:
    """Let no base step inside the block (Eq. 5) use a loss or a gradient that is not finite.

    With a loss scale (float16), a gradient that overflows only because of it is left to the scaler,
    which then skips the step; without one, or with one below 1, it stops.

    Args:
        trainer: a trainer with model, optimizer, checkpointer and current iteration.

    Raises:
        NonFiniteError: before the optimizer changed anything, on all processes alike.
    """
    step = _BaseStep(trainer)
    handles = [
        trainer.model.register_forward_pre_hook(step.remember_batch),
        trainer.model.register_forward_hook(step.remember_losses),
        trainer.optimizer.register_step_pre_hook(step.check_gradients),
        trainer.optimizer.register_step_post_hook(step.remember_update),
    ]
    trainer._trainer.watch = step.watch
    try:
        yield
        step.check_loss_scale()
    except NonFiniteLosses as signal:
        raise step.error("the loss", signal.losses) from None
    finally:
        trainer._trainer.watch = None
        for handle in handles:
            handle.remove()


class _BaseStep:
    """What is needed to explain a base step that failed."""

    def __init__(self, trainer: DefaultTrainer) -> None:
        self._trainer = trainer
        model = trainer.model
        self._model: nn.Module = (
            model.module if isinstance(model, DistributedDataParallel) else model
        )
        self._device = next(model.parameters()).device.type
        self._batch: Any = None
        self._autocast: dict[str, Any] = {}
        self._losses: Mapping[str, Tensor] = {}
        self._is_trained = trainer.iter > 0
        self.watch = None if self._scales_losses() else Watch(self._gradient_sum)

    def remember_batch(self, _model: nn.Module, inputs: tuple[Any, ...]) -> None:
        (self._batch,) = inputs
        self._autocast = {
            "dtype": torch.get_autocast_dtype(self._device),
            "enabled": torch.is_autocast_enabled(self._device),
        }

    def remember_losses(
        self, _model: nn.Module, _inputs: tuple[Any, ...], losses: Mapping[str, Tensor]
    ) -> None:
        self._losses = losses

    def remember_update(self, *_arguments: Any) -> None:
        self._is_trained = True

    def check_gradients(self, *_arguments: Any) -> None:
        # With a loss scale the scaler has looked at each value.
        if self.watch is None or isfinite(self.watch.value):
            return
        # The sum of huge finite ones may overflow.
        if not all(gradient.isfinite().all() for gradient in self._gradients()):
            raise self._gradient_error()

    def check_loss_scale(self) -> None:
        if self._scales_losses() and self._trainer.grad_scaler.get_scale() < LOWEST_LOSS_SCALE:
            raise self._gradient_error()

    def _scales_losses(self) -> bool:
        scaler = self._trainer.grad_scaler
        return scaler is not None and scaler.is_enabled()

    def _gradients(self) -> list[Tensor]:
        # fastreid's optimizers hold one flat buffer per learning rate and weight decay: few sums.
        return [
            parameter.grad
            for group in self._trainer.optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]

    def _gradient_sum(self) -> Tensor:
        # It costs a fraction of looking at each value, and is finite only where all are.
        return sum((gradient.sum() for gradient in self._gradients()), torch.zeros(()))

    def error(self, what: str, terms: Mapping[str, float]) -> NonFiniteError:
        fault = Fault(what, terms, ["SOLVER.BASE_LR"] if self._is_trained else [])
        return nonfinite_error(self._trainer, fault, self._model, self._forward)

    def _gradient_error(self) -> NonFiniteError:
        gradients = {
            name: parameter.grad
            for name, parameter in self._model.named_parameters()
            if parameter.grad is not None
        }
        # The backward pass meets the layers in reverse.
        name = next(reversed(nonfinite_names(gradients)), "a parameter")
        losses = {name: float(loss.detach()) for name, loss in self._losses.items()}
        return self.error(f"the gradient of {name}", losses)

    def _forward(self) -> object:
        with torch.autocast(self._device, **self._autocast):
            return held_call(self._model, self._batch)
