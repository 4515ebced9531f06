"""Evaluating puts every layer into training mode afterwards, the frozen ones too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from metabin_plugin.compat.rebinding import repair


def _layer_by_layer(_original: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    def inference_context(model: nn.Module) -> Iterator[None]:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    return inference_context


def repair_evaluation_mode() -> None:
    """``inference_context`` gives all layers the model's mode, also those that were frozen.

    After an evaluation that fails it leaves the model in evaluation mode.
    """
    from fastreid.evaluation import evaluator

    repair(evaluator, "inference_context", _layer_by_layer)
