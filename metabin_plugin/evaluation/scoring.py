"""Metrics of one query set and gallery, as the TEST node of the config asks for them."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.evaluation.query_expansion import aqe
from fastreid.evaluation.roc import evaluate_roc
from fastreid.utils.compute_dist import build_dist
from sklearn.metrics import roc_curve
from torch import Tensor

from metabin_plugin.evaluation.images import Images
from metabin_plugin.ranking import evaluate_features, evaluate_rank

QUERIES, LEFT_OUT = "queries", "left_out"

_RANKS = (1, 5, 10)
_FALSE_POSITIVE_RATES = (1e-4, 1e-3, 1e-2)


def score(cfg: CfgNode, query: Images, gallery: Images) -> OrderedDict[str, float]:
    """Compute the metrics that fastreid's ``ReidEvaluator`` computes, under its names.

    The distances are held in memory as a whole only for re-ranking and the ROC curve.

    Args:
        cfg: the config; ``TEST.METRIC``, ``AQE``, ``RERANK`` and ``ROC`` count.
        query: the queries.
        gallery: the gallery.

    Returns:
        ``Rank-1``, ``Rank-5``, ``Rank-10``, ``mAP``, ``mINP`` and ``metric``, the mean of ``mAP``
        and ``Rank-1``, in percent; with the ROC curve, true-positive rates in [0, 1]. After them
        ``queries``, the number of queries that these metrics are of, and ``left_out``, the number
        of the others: no gallery image shows their person under another camera.

    Raises:
        DatasetError: no query has a match in the gallery.
    """
    features = query.features, gallery.features
    if cfg.TEST.AQE.ENABLED:
        features = _expanded(cfg.TEST.AQE, *features)
    labels = (query.identities, gallery.identities, query.cameras, gallery.cameras)
    if cfg.TEST.RERANK.ENABLED or cfg.TEST.ROC.ENABLED:
        distances = _distances(cfg, *features)
        curve, *by_query = evaluate_rank(distances, *labels)
    else:
        curve, *by_query = evaluate_features(*features, *labels, metric=cfg.TEST.METRIC)
    results = _percentages(curve, *by_query)
    if cfg.TEST.ROC.ENABLED:
        results.update(_true_positive_rates(distances, labels))
    scored = len(by_query[0])
    results.update({QUERIES: scored, LEFT_OUT: len(query.identities) - scored})
    return results


def _expanded(keys: CfgNode, query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    # fastreid's function needs more images than neighbours.
    neighbours = min(keys.QE_K, len(query) + len(gallery) - 1)
    return aqe(query, gallery, keys.QE_TIME, neighbours, keys.ALPHA)


def _distances(cfg: CfgNode, query: Tensor, gallery: Tensor) -> np.ndarray:
    distances = build_dist(query, gallery, cfg.TEST.METRIC)
    keys = cfg.TEST.RERANK
    if not keys.ENABLED:
        return distances
    if cfg.TEST.METRIC == "cosine":
        query, gallery = F.normalize(query, dim=1), F.normalize(gallery, dim=1)
    jaccard = build_dist(query, gallery, "jaccard", k1=keys.K1, k2=keys.K2)
    return jaccard * (1 - keys.LAMBDA) + distances * keys.LAMBDA


def _percentages(
    curve: np.ndarray, average_precision: list[float], inverse_penalty: list[float]
) -> OrderedDict[str, float]:
    mean_precision = np.mean(average_precision)
    results = OrderedDict()
    for rank in _RANKS:
        # All matches of a gallery with fewer entries are within its last rank.
        results[f"Rank-{rank}"] = curve[min(rank, len(curve)) - 1] * 100
    results["mAP"] = mean_precision * 100
    results["mINP"] = np.mean(inverse_penalty) * 100
    results["metric"] = (mean_precision + curve[0]) / 2 * 100
    return results


def _true_positive_rates(distances: np.ndarray, labels: tuple[np.ndarray, ...]) -> dict[str, float]:
    scores, is_other = evaluate_roc(distances, *labels)
    false_rates, true_rates, _ = roc_curve(is_other, scores)
    return {
        f"TPR@FPR={rate:.0e}": true_rates[np.argmin(np.abs(false_rates - rate))]
        for rate in _FALSE_POSITIVE_RATES
    }
