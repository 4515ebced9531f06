"""``AMPTrainer`` asserts CUDA and uses the deprecated ``torch.cuda.amp``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from metabin_plugin.compat.rebinding import repair

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class LossScaler(torch.amp.GradScaler):
    """``GradScaler`` that also goes on from a run without a loss scale."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a ``state_dict``; one of a disabled scaler is empty and changes nothing."""
        if state_dict:
            super().load_state_dict(state_dict)


def autocast_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """Half-precision type to compute in on a device.

    Args:
        device: where the model is.
        name: ``SOLVER.AMP.DTYPE``; "auto" is float16 on CUDA and bfloat16 elsewhere.
    """
    if name == "auto":
        name = "float16" if device.type == "cuda" else "bfloat16"
    return _DTYPES[name]


def build_grad_scaler(device: torch.device, name: str = "auto") -> LossScaler:
    """Loss scaler for a device; disabled with bfloat16, whose range needs no scaling.

    Args:
        device: where the model is.
        name: ``SOLVER.AMP.DTYPE``.
    """
    return LossScaler(device.type, enabled=autocast_dtype(device, name) is torch.float16)


def use_dtype(trainer: Any, name: str) -> None:
    """Let an ``AMPTrainer`` that has not trained yet compute in another half-precision type.

    Args:
        trainer: the trainer.
        name: ``SOLVER.AMP.DTYPE``.
    """
    trainer.amp_dtype = name
    trainer.grad_scaler = build_grad_scaler(_device_of(trainer.model), name)


def _device_of(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def _with_scaler(original: Callable[..., Any]) -> Callable[..., Any]:
    def init(
        self: Any,
        model: torch.nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        param_wrapper: Any,
        grad_scaler: Any = None,
    ) -> None:
        if grad_scaler is None:
            grad_scaler = build_grad_scaler(_device_of(model))
        original(self, model, data_loader, optimizer, param_wrapper, grad_scaler)
        self.amp_dtype = "auto"

    return init


def _any_device(_original: Callable[..., Any]) -> Callable[..., Any]:
    def run_step(self: Any) -> None:
        if not self.model.training:
            raise RuntimeError("the model was switched to eval mode in the middle of training")
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        device = _device_of(self.model)
        with torch.autocast(device.type, dtype=autocast_dtype(device, self.amp_dtype)):
            losses = self.model(batch)
            loss = sum(losses.values())

        self.optimizer.zero_grad()
        self.grad_scaler.scale(loss).backward()
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if hasattr(self.param_wrapper, "assert_buffer_is_valid"):
            self.param_wrapper.assert_buffer_is_valid()

    return run_step


def repair_mixed_precision() -> None:
    """``AMPTrainer`` fails without CUDA; ``torch.amp`` serves both devices, without deprecation."""
    from fastreid.engine.train_loop import AMPTrainer

    repair(AMPTrainer, "__init__", _with_scaler)
    repair(AMPTrainer, "run_step", _any_device)
