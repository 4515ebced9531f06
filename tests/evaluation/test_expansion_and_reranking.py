"""Query expansion and re-ranking are what their papers define; what cannot be computed is refused.

Oracles are written with loops and sets, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode, get_cfg

from metabin_plugin.engine import check_config
from metabin_plugin.errors import ConfigError
from metabin_plugin.evaluation import Members, MultiSplitEvaluator
from tests.engine.tiny_data import tiny_config

IMAGES, PEOPLE = 24, 6
RNG = np.random.default_rng(5)
IDENTITIES = np.arange(IMAGES) % PEOPLE
CAMERAS = np.arange(IMAGES) // PEOPLE % 2
FEATURES = RNG.normal(size=(PEOPLE, 5))[IDENTITIES] + RNG.normal(size=(IMAGES, 5))


def splits() -> list[tuple[Members, Members]]:
    """Three splits of the same images, each with a query of every person."""
    found = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(IMAGES)
        query = np.array([next(i for i in order if IDENTITIES[i] == p) for p in range(PEOPLE)])
        gallery = np.array([i for i in order if i not in query])[seed:]
        found.append((members(query), members(gallery)))
    return found


def members(positions: np.ndarray) -> Members:
    return Members(positions, IDENTITIES[positions], CAMERAS[positions])


def config(**keys: Any) -> CfgNode:
    cfg = get_cfg()
    for key, value in keys.items():
        node, name = cfg.TEST, key
        if "_" in key:
            parent, name = key.split("_", 1)
            node = cfg.TEST[parent]
            node.ENABLED = True
        node[name] = value
    return cfg


def evaluated(cfg: CfgNode) -> list[dict[str, float]]:
    evaluator = MultiSplitEvaluator(cfg, splits())
    targets, cameras = torch.tensor(IDENTITIES), torch.tensor(CAMERAS)
    evaluator.process(
        {"targets": targets, "camids": cameras}, torch.tensor(FEATURES, dtype=torch.float32)
    )
    return [dict(split) for split in evaluator.evaluate().splits]


def mean_average_precision(distances: np.ndarray, query: Members, gallery: Members) -> float:
    precisions = []
    for row, identity, camera in zip(distances, query.identities, query.cameras, strict=True):
        same = gallery.identities == identity
        kept = ~(same & (gallery.cameras == camera))
        matches = same[kept][np.argsort(row[kept], kind="stable")]
        if matches.any():
            hits = np.flatnonzero(matches) + 1
            precisions.append(np.mean(np.arange(1, len(hits) + 1) / hits))
    return 100 * float(np.mean(precisions))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([[((a - b) ** 2).sum() for b in y] for a in x])


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 1 - np.array([[unit(a) @ unit(b) for b in y] for a in x])


def expanded(x: np.ndarray, times: int, neighbours: int, alpha: int) -> np.ndarray:
    """Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", alpha-QE."""
    for _ in range(times):
        new = []
        for a in x:
            cosines = np.array([unit(a) @ unit(b) for b in x])
            nearest = sorted(range(len(x)), key=lambda i: -cosines[i])[:neighbours]
            new.append(sum(cosines[i] ** alpha * x[i] for i in nearest) / neighbours)
        x = np.array(new)
    return x


def jaccard(x: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """Zhong et al. (CVPR 2017), with k1 neighbours that include the image itself."""
    distances = squared(x, x)
    order = np.argsort(distances, axis=1)

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i, :k] if i in order[j, :k]}

    weights = np.zeros_like(distances)
    for i in range(len(x)):
        core = reciprocal(i, k1)
        found = set(core)
        for j in core:
            further = reciprocal(j, round(k1 / 2) + 1)
            if 3 * len(further & core) > 2 * len(further):
                found |= further
        for j in found:
            weights[i, j] = np.exp(-distances[i, j])
        weights[i] /= weights[i].sum()
    local = np.array([weights[order[i, :k2]].mean(0) for i in range(len(x))])
    shared = np.array([[np.minimum(a, b).sum() for b in local] for a in local])
    return 1 - shared / (2 - shared)


def check(cfg: CfgNode, distances: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    results = evaluated(cfg)
    assert len(results) == 3
    expected = []
    for query, gallery in splits():
        rows = distances(FEATURES[query.positions], FEATURES[gallery.positions])
        expected.append(mean_average_precision(rows, query, gallery))
    assert [result["mAP"] for result in results] == pytest.approx(expected, rel=1e-6)
    assert len(set(expected)) == 3


METRICS = {"cosine": cosine, "euclidean": squared}


@pytest.mark.parametrize("metric", METRICS)
def test_distances_alone(metric: str) -> None:
    check(config(METRIC=metric), METRICS[metric])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("times", "neighbours", "alpha"), [(1, 3, 3), (2, 4, 1), (1, 9, 2)])
def test_expansion_is_of_each_splits_images(
    metric: str, times: int, neighbours: int, alpha: int
) -> None:
    def distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        both = expanded(np.concatenate([query, gallery]), times, neighbours, alpha)
        return METRICS[metric](both[: len(query)], both[len(query) :])

    keys = {"AQE_QE_TIME": times, "AQE_QE_K": neighbours, "AQE_ALPHA": float(alpha)}
    check(config(METRIC=metric, **keys), distances)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_reranking_is_of_each_splits_images(metric: str, weight: float) -> None:
    def distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        both = np.concatenate([query, gallery])
        both = unit(both) if metric == "cosine" else both
        first = jaccard(both, 7, 3)[: len(query), len(query) :]
        return (1 - weight) * first + weight * METRICS[metric](query, gallery)

    keys = {"RERANK_K1": 7, "RERANK_K2": 3, "RERANK_LAMBDA": weight}
    check(config(METRIC=metric, **keys), distances)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("TEST.METRIC", "jaccard"),
            r"ENABLED True and TEST\.RERANK\.LAMBDA 0 for it, with METRIC",
        ),
        (("TEST.METRIC", "l1"), r"TEST\.METRIC is 'l1'; choose among cosine, euclidean"),
        (("TEST.AQE.ENABLED", "True", "TEST.AQE.QE_K", "0"), r"QE_K is 0; it must be at least 1"),
        (("TEST.AQE.ENABLED", "True", "TEST.AQE.QE_TIME", "0"), r"QE_TIME is 0"),
        (("TEST.AQE.ENABLED", "True", "TEST.AQE.ALPHA", "2.5"), r"ALPHA is 2\.5, .* whole number"),
        (("TEST.AQE.ENABLED", "True", "TEST.AQE.ALPHA", "-1.0"), r"ALPHA is -1\.0"),
        (("TEST.RERANK.ENABLED", "True", "TEST.RERANK.K1", "0"), r"K1 is 0"),
        (("TEST.RERANK.ENABLED", "True", "TEST.RERANK.K2", "21"), r"K2 is 21; .* at most 20"),
        (("TEST.RERANK.ENABLED", "True", "TEST.RERANK.LAMBDA", "1.5"), r"LAMBDA is 1\.5"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    options: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_config(tiny_config(tmp_path, *options))
