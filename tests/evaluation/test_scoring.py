"""One query set and gallery: the numbers of fastreid's own evaluator, in every setting."""

from __future__ import annotations

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.evaluation import ReidEvaluator
from hypothesis import given, settings
from hypothesis import strategies as st

from metabin_plugin.evaluation import RankingEvaluator
from metabin_plugin.ranking import distances

BATCH = 16
KEYS = ("AQE", "RERANK", "ROC")


def config(metric: str, *enabled: str) -> CfgNode:
    cfg = get_cfg()
    cfg.TEST.METRIC = metric
    for key in enabled:
        cfg.TEST[key].ENABLED = True
    return cfg


def evaluate(evaluator: ReidEvaluator, seed: int, images: int) -> dict[str, float]:
    """What an evaluator makes of random features of ten people in three cameras, in batches."""
    random = torch.Generator().manual_seed(seed)
    pids = torch.randint(10, (images,), generator=random)
    features = torch.randn(10, 12, generator=random)[pids]
    features = features + 2 * torch.randn(images, 12, generator=random)
    # The last image is a match of the first one, which is a query.
    pids[-1] = pids[0]
    camids = torch.randint(3, (images,), generator=random)
    camids[0], camids[-1] = 0, 1
    evaluator.reset()
    for start in range(0, images, BATCH):
        part = slice(start, start + BATCH)
        evaluator.process({"targets": pids[part], "camids": camids[part]}, features[part])
    return evaluator.evaluate()


@settings(max_examples=40)
@given(
    st.sampled_from(("cosine", "euclidean")),
    st.sets(st.sampled_from(KEYS)),
    st.integers(0, 2**31),
    st.integers(50, 90),
)
def test_equals_fastreids_evaluator_bit_for_bit(
    metric: str, enabled: set[str], seed: int, images: int
) -> None:
    cfg = config(metric, *enabled)
    theirs = evaluate(ReidEvaluator(cfg, 20), seed, images)
    ours = evaluate(RankingEvaluator(cfg, 20), seed, images)
    assert list(ours.items()) == list(theirs.items())
    assert [type(value) for value in ours.values()] == [type(value) for value in theirs.values()]


@pytest.mark.parametrize("enabled", [(), ("AQE",), ("RERANK",), KEYS])
def test_few_images_need_no_smaller_settings(enabled: tuple[str, ...]) -> None:
    results = evaluate(RankingEvaluator(config("cosine", *enabled), 2), 0, 4)
    # Two entries: every match is among them.
    assert results["Rank-5"] == results["Rank-10"] == 100


def test_the_distances_are_never_all_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(RankingEvaluator(config("cosine"), 20), 0, 80)
    monkeypatch.setattr(distances, "CHUNK_ELEMENTS", 100)
    monkeypatch.delattr("metabin_plugin.evaluation.scoring.build_dist")
    assert evaluate(RankingEvaluator(config("cosine"), 20), 0, 80) == pytest.approx(whole)


def test_features_are_let_go_of() -> None:
    evaluator = RankingEvaluator(config("cosine"), 20)
    evaluate(evaluator, 0, 80)
    assert evaluator._predictions == []
