from __future__ import annotations

import warnings

import faiss
import numpy as np
import pytest
import torch
from fastreid.utils import compute_dist
from fastreid.utils.compute_dist import build_dist

from metabin_plugin.compat import evaluation


def features(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 4))).float()


def squared_distances(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    rows = x.double().tolist(), y.double().tolist()
    return np.array(
        [[sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) for b in rows[1]] for a in rows[0]]
    )


def jaccard_by_sets(x: torch.Tensor, k1: int, k2: int) -> np.ndarray:
    """Zhong et al. (CVPR 2017), Eq. 3-8 and 10-11, with exact neighbours, in float64."""
    squared = squared_distances(x, x)
    n = len(squared)
    order = np.argsort(squared, axis=1)

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i, :k] if i in order[j, :k]}

    weights = np.zeros((n, n))
    for i in range(n):
        core = reciprocal(i, k1)
        expanded = set(core)
        for j in core:
            candidate = reciprocal(j, round(k1 / 2) + 1)
            if len(candidate & core) > 2 / 3 * len(candidate):
                expanded |= candidate
        members = sorted(expanded)
        weights[i, members] = np.exp(-squared[i, members])
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[order[i, :k2]].mean(0) for i in range(n)])
    shared = np.array([[np.minimum(a, b).sum() for b in weights] for a in weights])
    return 1 - shared / (2 - shared)


def test_reranking_runs_on_cpu_and_is_right():
    x = features(12)
    found = compute_dist.compute_jaccard_distance(x, k1=5, k2=2)
    np.testing.assert_allclose(found, jaccard_by_sets(x, 5, 2), atol=1e-5)


def test_reranking_few_images_uses_all_of_them():
    x = features(4)
    found = build_dist(x[:2], x[2:], "jaccard", k1=20, k2=2)
    np.testing.assert_allclose(found, jaccard_by_sets(x, 4, 2)[:2, 2:], atol=1e-5)


@pytest.mark.parametrize(
    ("torch_gpu", "faiss_gpus", "option"),
    [(False, 0, 3), (True, 0, 3), (False, 1, 3), (True, 1, 2)],
)
def test_faiss_searches_where_it_can(monkeypatch, torch_gpu, faiss_gpus, option):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_gpu)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: faiss_gpus, raising=False)
    assert evaluation._search_option() == option


def test_euclidean_distances_are_squared_and_warn_of_nothing():
    x, y = features(3), features(5, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = build_dist(x, y, "euclidean")
    np.testing.assert_allclose(found, squared_distances(x, y), rtol=1e-4)
