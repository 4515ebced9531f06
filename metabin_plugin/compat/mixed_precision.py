"""``AMPTrainer`` asserts CUDA and uses the deprecated ``torch.cuda.amp``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from metabin_plugin.compat.rebinding import repair


def autocast_dtype(device: torch.device) -> torch.dtype:
    """Half-precision type of a device: float16 on CUDA, bfloat16 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def build_grad_scaler(device: torch.device) -> torch.amp.GradScaler:
    """Loss scaler for a device; disabled where bfloat16 is used, whose range needs no scaling."""
    return torch.amp.GradScaler(device.type, enabled=device.type == "cuda")


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

    return init


def _any_device(_original: Callable[..., Any]) -> Callable[..., Any]:
    def run_step(self: Any) -> None:
        if not self.model.training:
            raise RuntimeError("the model was switched to eval mode in the middle of training")
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        device = _device_of(self.model)
        with torch.autocast(device.type, dtype=autocast_dtype(device)):
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
