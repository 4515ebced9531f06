"""One query set and gallery: the numbers of fastreid's own evaluator, in every setting."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.evaluation import ReidEvaluator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metabin_plugin import evaluation, ranking
from metabin_plugin.errors import NonFiniteError
from metabin_plugin.evaluation import Members, MultiSplitEvaluator, RankingEvaluator

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
    assert ours.pop("queries") + ours.pop("left_out") == 20
    assert list(ours.items()) == list(theirs.items())
    assert [type(value) for value in ours.values()] == [type(value) for value in theirs.values()]


@settings(max_examples=40)
@given(
    st.sets(st.sampled_from(KEYS)),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12),
)
def test_results_say_how_many_queries_were_scored_and_left_out(
    enabled: set[str], queries: list[tuple[int, int]], gallery: list[tuple[int, int]]
) -> None:
    # At least the first query has a match, and another one has not.
    queries, gallery = [(0, 0), (9, 0), *queries], [(0, 1), *gallery]
    matched = [
        any(person == other and camera != elsewhere for other, elsewhere in gallery)
        for person, camera in queries
    ]
    pids, camids = torch.tensor(queries + gallery).T
    evaluator = RankingEvaluator(config("cosine", *enabled), len(queries))
    evaluator.reset()
    features = torch.randn(len(pids), 12, generator=torch.Generator().manual_seed(len(pids)))
    evaluator.process({"targets": pids, "camids": camids}, features)
    with capture(evaluation.logger) as lines:
        results = evaluator.evaluate()
    assert type(results["queries"]) is type(results["left_out"]) is int
    assert (results["queries"], results["left_out"]) == (sum(matched), matched.count(False))
    (line,) = lines
    assert line.startswith(f"{matched.count(False)} of {len(matched)} queries are left out")


@contextmanager
def capture(logger: logging.Logger) -> Iterator[list[str]]:
    """The lines that a logger is given."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("enabled", [(), ("AQE",), ("RERANK",), KEYS])
def test_few_images_need_no_smaller_settings(enabled: tuple[str, ...]) -> None:
    results = evaluate(RankingEvaluator(config("cosine", *enabled), 2), 0, 4)
    # Two entries: every match is among them.
    assert results["Rank-5"] == results["Rank-10"] == 100


def strict_json(text: str) -> Any:
    """As other languages read it, which know no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("several_splits", [False, True])
def test_one_person_has_no_roc_curve(several_splits: bool, tmp_path: Path) -> None:
    """Rates of other people's images are defined where there are any, and nowhere else."""
    features = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    pids, camids = torch.tensor([0, 0, 1, 0, 0, 1]), torch.tensor([0, 0, 0, 1, 1, 1])
    cfg = config("cosine", "ROC")

    def members(*places: int) -> Members:
        chosen = np.array(places)
        return Members(chosen, pids.numpy()[chosen], camids.numpy()[chosen])

    one, two = (members(0, 1), members(3, 4)), (members(0, 2), members(3, 5))
    evaluator = MultiSplitEvaluator(cfg, [two, one, two])
    if not several_splits:
        evaluator, kept = RankingEvaluator(cfg, 2), [0, 1, 3, 4]
        features, pids, camids = features[kept], pids[kept], camids[kept]
    evaluator.reset()
    evaluator.process({"targets": pids, "camids": camids}, features)
    with capture(evaluation.logger) as lines:
        results = evaluator.evaluate()
    assert not any(name.startswith("TPR") for name in results) and results["Rank-1"] > 0
    assert any("TEST.ROC" in line for line in lines)
    evaluation.write_results(results, ["target"], str(tmp_path))
    written = strict_json((tmp_path / "results.json").read_text())["target"]
    assert written["mAP"] == pytest.approx(results["mAP"])
    rates = ["TPR@FPR=1e-02" in split for split in written.get("splits", ())]
    assert rates == ([True, False, True] if several_splits else [])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("enabled", [(), ("AQE", "RERANK")])
def test_features_that_are_not_finite_are_refused(enabled: tuple[str, ...], bad: float) -> None:
    evaluator = RankingEvaluator(config("euclidean", *enabled), 2)
    evaluator.reset()
    features = torch.randn(5, 4)
    features[1, 2] = features[4, 0] = bad
    pids, camids = torch.tensor([0, 1, 0, 1, 2]), torch.tensor([0, 0, 1, 1, 1])
    evaluator.process({"targets": pids, "camids": camids}, features)
    with pytest.raises(NonFiniteError, match=r"2 of 5 images .* MODEL\.WEIGHTS"):
        evaluator.evaluate()


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that is made in its block."""

    elements = 0

    def __torch_dispatch__(
        self, operator: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_the_distances_are_never_all_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(RankingEvaluator(config("cosine"), 20), 0, 80)
    monkeypatch.setattr(ranking, "CHUNK_ELEMENTS", 100)
    with LargestTensor() as largest:
        found = evaluate(RankingEvaluator(config("cosine"), 20), 0, 80)
    assert found == pytest.approx(whole)
    # Of 20 queries from 60 images; the features of all are 80 x 12.
    assert 0 < largest.elements < 20 * 60


def test_features_are_let_go_of() -> None:
    evaluator = RankingEvaluator(config("cosine"), 20)
    evaluate(evaluator, 0, 80)
    assert evaluator._predictions == []


@pytest.mark.parametrize("rounding", [0.0, 1e-6])
@pytest.mark.parametrize("several_splits", [False, True])
def test_queries_whose_picture_is_in_the_gallery_under_another_camera_are_told(
    rounding: float, several_splits: bool
) -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(12, 64, generator=random)
    # Queries 0 to 3, of which 0 and 1 are copied under another camera, 2 under its own.
    copies = {4: 0, 5: 1, 6: 2}
    noise = 1 + rounding * (torch.rand(12, 64, generator=random) - 0.5)
    for copy, original in copies.items():
        features[copy] = features[original] * noise[copy]
    pids = torch.tensor([0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 3])
    camids = torch.tensor([0, 0, 0, 0, 1, 2, 0, 1, 1, 1, 1, 0])
    sides = [
        Members(np.arange(12)[part], pids.numpy()[part], camids.numpy()[part])
        for part in (slice(4), slice(4, None))
    ]
    cfg = config("cosine")
    evaluator = (
        MultiSplitEvaluator(cfg, [(sides[0], sides[1])] * 3)
        if several_splits
        else RankingEvaluator(cfg, 4)
    )
    evaluator.reset()
    evaluator.process({"targets": pids, "camids": camids}, features)
    with capture(evaluation.logger) as lines:
        evaluator.evaluate()
    (line,) = lines
    assert line.startswith("6 of 12 queries" if several_splits else "2 of 4 queries")
    assert "on both sides" in line
