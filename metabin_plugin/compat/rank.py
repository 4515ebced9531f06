"""``evaluate_rank`` is slow without a Cython build, and takes gigabytes on large galleries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from metabin_plugin.compat.rebinding import repair


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
