from __future__ import annotations

import subprocess

import numpy as np
import pytest
from fastreid.config import get_cfg
from fastreid.evaluation import ReidEvaluator, rank

from metabin_plugin.compat import evaluation

LABELS = (
    np.array([0, 1]),
    np.array([0, 0, 1, 1]),
    np.array([0, 0]),
    np.array([1, 1, 1, 1]),
)
DISTANCES = np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]], dtype=np.float32)


def test_an_evaluator_compiles_nothing(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("ReidEvaluator started a compiler")

    monkeypatch.setattr(subprocess, "run", refuse)
    ReidEvaluator(get_cfg(), num_query=1)


def test_ranking_is_the_plugins(monkeypatch):
    seen = []
    monkeypatch.setattr(evaluation, "evaluate_rank", lambda *args: seen.append(args) or "result")
    assert rank.evaluate_rank(DISTANCES, *LABELS, max_rank=7) == "result"
    assert len(seen) == 1
    for given, expected in zip(seen[0], (DISTANCES, *LABELS, 7), strict=True):
        assert given is expected


def test_the_cuhk03_metric_stays_fastreids():
    cmc, mean_ap = rank.evaluate_rank(DISTANCES, *LABELS, max_rank=2, use_metric_cuhk03=True)
    # Query 0 finds both its images first, query 1 last; but one image of each person is drawn,
    # where the plugin's ranking has two wrong ones before the match.
    assert cmc.tolist() == pytest.approx([0.5, 1.0])
    assert mean_ap == pytest.approx((1 + (1 / 3 + 2 / 4) / 2) / 2)


def test_np_bool_is_supplied_only_where_numpy_has_none(monkeypatch):
    monkeypatch.delattr(np, "bool", raising=False)
    rank.eval_cuhk03(DISTANCES, *LABELS, max_rank=2)
    assert not hasattr(np, "bool")


def test_np_bool_of_numpy_is_not_replaced(monkeypatch):
    own = np.dtype(bool)
    seen = []
    monkeypatch.setattr(np, "bool", own, raising=False)
    monkeypatch.setattr(np.random, "choice", lambda found: seen.append(np.bool) or found[0])
    rank.eval_cuhk03(DISTANCES, *LABELS, max_rank=2)
    assert seen and all(found is own for found in seen)
