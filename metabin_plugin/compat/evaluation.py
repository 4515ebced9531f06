"""Evaluation and re-ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from metabin_plugin.compat.imports import require_faiss
from metabin_plugin.compat.patching import patch
from metabin_plugin.ranking import evaluate_rank


@patch(
    "fastreid.evaluation.evaluator:inference_context",
    fault="It gives all layers the mode of the whole model afterwards, also those that were frozen "
    "in evaluation mode. After an evaluation that fails it leaves the model in evaluation mode.",
    unless=None,
)
@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Give each layer its own mode back, whatever happens in between."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@patch(
    "fastreid.evaluation.reid_evaluation:ReidEvaluator._compile_dependencies",
    fault="It runs ``make`` in the folder that fastreid is installed in, with whatever ``python3`` "
    "there is, and without Cython ends the process: what was trained is not evaluated.",
    unless=None,
)
def compile_nothing(self: Any) -> None:
    """Compile nothing: the plugin's ranking needs no Cython."""


@patch(
    "fastreid.evaluation.rank:evaluate_rank",
    fault="Without the compiled extension it ranks in a Python loop over the queries.",
    unless="``use_metric_cuhk03`` asks for CUHK03's metric with a single gallery shot.",
)
def rank_without_cython(
    original: Callable[..., Any],
    distmat: np.ndarray,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_camids: np.ndarray,
    g_camids: np.ndarray,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
    use_cython: bool = True,
) -> Any:
    """Rank with ``metabin_plugin.ranking.evaluate_rank``."""
    labels = (q_pids, g_pids, q_camids, g_camids)
    if use_metric_cuhk03:
        return original(distmat, *labels, max_rank, use_metric_cuhk03, use_cython)
    return evaluate_rank(distmat, *labels, max_rank)


@patch(
    "fastreid.evaluation.rank:eval_cuhk03",
    fault="It asks for ``np.bool``, which NumPy 1.24 to 1.26 do not have.",
    unless="NumPy has it.",
)
def eval_cuhk03(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Supply ``np.bool`` during the call; then NumPy is as before."""
    if hasattr(np, "bool"):
        return original(*args, **kwargs)
    np.bool = np.bool_  # type: ignore
    try:
        return original(*args, **kwargs)
    finally:
        del np.bool


_FAISS_GPU = 2
_FAISS_CPU = 3


def _search_option() -> int:
    faiss = require_faiss()
    has_gpu = torch.cuda.is_available() and getattr(faiss, "get_num_gpus", lambda: 0)() > 0
    return _FAISS_GPU if has_gpu else _FAISS_CPU


@patch(
    "fastreid.utils.compute_dist:compute_jaccard_distance",
    fault="It calls ``.cuda()`` and hands Faiss raw pointers, which current Faiss refuses. With "
    "fewer images than ``k1`` it takes Faiss's -1, no neighbour, for the last image.",
    unless=None,
)
def compute_jaccard_distance(
    original: Callable[..., Any],
    features: torch.Tensor,
    k1: int = 20,
    k2: int = 6,
    search_option: int = 0,
    fp16: bool = False,
) -> np.ndarray:
    """Search with Faiss's own array interface, and for no more neighbours than there are images.

    Its GPU index is used where Faiss has GPUs, else its CPU index, also beside a GPU that PyTorch
    alone can use.
    """
    return original(features, min(k1, len(features)), k2, _search_option(), fp16)


@patch(
    "fastreid.utils.compute_dist:compute_euclidean_distance",
    fault="It calls ``addmm_(1, -2, x, y)``, a signature that PyTorch has deprecated.",
    unless=None,
)
@torch.no_grad()
def compute_euclidean_distance(features: torch.Tensor, others: torch.Tensor) -> np.ndarray:
    """Compute the same squared distances with the current signature."""
    squares = features.square().sum(1)[:, None] + others.square().sum(1)
    return torch.addmm(squares, features, others.t(), alpha=-2).cpu().numpy()
