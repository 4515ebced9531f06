"""Distances for the evaluation: CUDA-only re-ranking, and a deprecated ``addmm_``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from metabin_plugin.compat.optional_faiss import require_faiss
from metabin_plugin.compat.rebinding import repair

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
