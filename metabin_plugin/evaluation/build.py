"""The evaluator that fits a target, and the loader that fits the evaluator."""

from __future__ import annotations

import logging
from typing import Any

from fastreid.config import CfgNode

from metabin_plugin.data import ReadableDataset, build_reid_test_loader
from metabin_plugin.evaluation.evaluators import MultiSplitEvaluator, RankingEvaluator, Sides
from metabin_plugin.evaluation.images import without_repetition

logger = logging.getLogger(__name__)


def build_evaluator(
    cfg: CfgNode,
    loader: Any,
    num_query: int,
    output_dir: str | None = None,
    sides: Sides | None = None,
) -> tuple[Any, RankingEvaluator]:
    """Build the evaluator for a target's images, and the loader to use with it.

    Args:
        cfg: the config.
        loader: a test loader, query images first.
        num_query: number of query images.
        output_dir: passed on to the evaluator.
        sides: passed on to the evaluator.

    Returns:
        The loader as it is; or, if its dataset has several ``splits``, one that reads each image of
        all splits once, with the same transforms. And the evaluator.
    """
    splits = getattr(loader.dataset, "splits", ())
    if len(splits) < 2:
        return loader, RankingEvaluator(cfg, num_query, output_dir, sides)
    items, members = without_repetition(splits)
    logger.info("%d splits of %d images", len(splits), len(items))
    test_set = ReadableDataset(items, loader.dataset.transform, relabel=False)
    loader, _ = build_reid_test_loader(cfg, test_set=test_set)
    return loader, MultiSplitEvaluator(cfg, members, output_dir, sides)
