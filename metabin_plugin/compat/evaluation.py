"""What is broken in fastreid's evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from metabin_plugin.compat.imports import require_faiss
from metabin_plugin.compat.patching import repair


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


def _nothing_to_compile(_original: Callable[..., Any]) -> Callable[..., Any]:
    def compile_dependencies(self: Any) -> None:
        """Nothing to compile: the plugin's ranking needs no Cython."""

    return compile_dependencies


def repair_evaluation_tools() -> None:
    """``_compile_dependencies`` calls ``sys.exit(1)`` without Cython, losing the evaluation."""
    from fastreid.evaluation.reid_evaluation import ReidEvaluator

    repair(ReidEvaluator, "_compile_dependencies", _nothing_to_compile)


def _route(original: Callable[..., Any]) -> Callable[..., Any]:
    def evaluate_rank(
        distmat: np.ndarray,
        q_pids: np.ndarray,
        g_pids: np.ndarray,
        q_camids: np.ndarray,
        g_camids: np.ndarray,
        max_rank: int = 50,
        use_metric_cuhk03: bool = False,
        use_cython: bool = True,
    ) -> Any:
        labels = (q_pids, g_pids, q_camids, g_camids)
        if use_metric_cuhk03:
            return original(distmat, *labels, max_rank, use_metric_cuhk03, use_cython)
        from metabin_plugin import ranking

        return ranking.evaluate_rank(distmat, *labels, max_rank)

    return evaluate_rank


def repair_rank() -> None:
    """``evaluate_rank`` without Cython: route it to :func:`metabin_plugin.ranking.evaluate_rank`.

    The single-gallery-shot metric of CUHK03 stays fastreid's.
    """
    from fastreid.evaluation import rank

    repair(rank, "evaluate_rank", _route)


_FAISS_GPU = 2
_FAISS_CPU = 3


def _search_option() -> int:
    faiss = require_faiss()
    has_gpu = torch.cuda.is_available() and getattr(faiss, "get_num_gpus", lambda: 0)() > 0
    return _FAISS_GPU if has_gpu else _FAISS_CPU


def _on_any_device(original: Callable[..., Any]) -> Callable[..., Any]:
    def compute_jaccard_distance(
        features: torch.Tensor,
        k1: int = 20,
        k2: int = 6,
        search_option: int = 0,
        fp16: bool = False,
    ) -> np.ndarray:
        # For want of neighbours faiss answers -1, which would be taken for the last image.
        return original(features, min(k1, len(features)), k2, _search_option(), fp16)

    return compute_jaccard_distance


def _with_current_addmm(_original: Callable[..., Any]) -> Callable[..., Any]:
    @torch.no_grad()
    def compute_euclidean_distance(features: torch.Tensor, others: torch.Tensor) -> np.ndarray:
        squares = features.square().sum(1)[:, None] + others.square().sum(1)
        return torch.addmm(squares, features, others.t(), alpha=-2).cpu().numpy()

    return compute_euclidean_distance


def repair_jaccard_distance() -> None:
    """Re-ranking calls ``.cuda()`` and hands faiss raw pointers, which current faiss rejects.

    faiss's own array interface is used instead: its GPU index where faiss has GPUs, else its CPU
    index, also beside a GPU that only PyTorch can use.
    """
    from fastreid.utils import compute_dist

    repair(compute_dist, "compute_jaccard_distance", _on_any_device)


def repair_euclidean_distance() -> None:
    """``addmm_(1, -2, x, y)`` is a signature that PyTorch has deprecated (squared distances)."""
    from fastreid.utils import compute_dist

    repair(compute_dist, "compute_euclidean_distance", _with_current_addmm)


def _once_per_iteration(original: Callable[..., Any]) -> Callable[..., Any]:
    def write(self: Any) -> None:
        from fastreid.utils.events import get_event_storage

        if self._last_write is None or self._last_write[0] != get_event_storage().iter:
            original(self)

    return write


def repair_progress() -> None:
    """A run of fewer than three iterations writes twice in one iteration: ``ZeroDivisionError``.

    fastreid measures no iteration time before the third, and estimates it from its last line.
    """
    from fastreid.utils.events import CommonMetricPrinter

    repair(CommonMetricPrinter, "write", _once_per_iteration)
