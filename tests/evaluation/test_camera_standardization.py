"""Metrics of features that are standardized by camera, beside the ordinary ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode, get_cfg

from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.evaluation import (
    BY_CAMERA_SUFFIX,
    Images,
    Members,
    MultiSplitEvaluator,
    RankingEvaluator,
    score,
)
from tests.engine.tiny_data import tiny_config
from tests.evaluation.target_trees import write_targets

METRICS = ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "metric")
IDENTITIES = np.arange(40) % 20
CAMERAS = np.arange(40) // 20
QUERIES = 20


def features() -> torch.Tensor:
    """Of twenty people, in a camera that shifts and one that stretches what it sees."""
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(20, 8, generator=generator)
    noise = 0.5 * torch.randn(40, 8, generator=generator)
    seen = people[IDENTITIES] + noise
    return torch.cat((seen[:QUERIES] + 3, seen[QUERIES:] * torch.arange(1.0, 9)))


def config() -> CfgNode:
    cfg = get_cfg()
    cfg.METABIN.TEST.CAMERA_STANDARDIZATION = True
    return cfg


def evaluate(evaluator: Any) -> dict[str, float]:
    evaluator.reset()
    labels = {"targets": torch.from_numpy(IDENTITIES), "camids": torch.from_numpy(CAMERAS)}
    evaluator.process(labels, features())
    return evaluator.evaluate()


def standardized(cameras: np.ndarray) -> list[Images]:
    """Query and gallery, standardized by NumPy."""
    rows = features().double().numpy()
    for camera in set(cameras.tolist()):
        own = rows[cameras == camera]
        rows[cameras == camera] = (own - own.mean(0)) / own.std(0)
    both = Images(torch.from_numpy(rows).float(), IDENTITIES, CAMERAS)
    return [both.part(slice(QUERIES)), both.part(slice(QUERIES, None))]


@pytest.mark.parametrize("has_cameras", [True, False])
def test_they_are_those_of_standardized_features(has_cameras: bool) -> None:
    found = evaluate(RankingEvaluator(config(), QUERIES, has_cameras=has_cameras))
    plain = evaluate(RankingEvaluator(get_cfg(), QUERIES))
    assert {name: found[name] for name in plain} == plain
    expected = score(config(), *standardized(CAMERAS if has_cameras else CAMERAS * 0))
    further = {name + BY_CAMERA_SUFFIX: expected[name] for name in METRICS}
    assert {name: found[name] for name in found if name not in plain} == pytest.approx(further)
    # What a camera does to its pictures costs matches, and nothing when it is taken away.
    if has_cameras:
        assert found["mAP" + BY_CAMERA_SUFFIX] > found["mAP"] + 10


def test_splits_have_their_own_mean_and_deviation() -> None:
    halves = [np.arange(start, start + 20) for start in (0, 10)]
    members = [
        tuple(
            Members(part, IDENTITIES[part], CAMERAS[part])
            for part in (half % 20, half % 20 + QUERIES)
        )
        for half in (halves[0][:12], halves[1][:12])
    ]
    results = evaluate(MultiSplitEvaluator(config(), members))  # type: ignore[arg-type]
    assert [*results] == [
        *(*METRICS, "queries", "left_out"),
        *(name + BY_CAMERA_SUFFIX for name in METRICS),
        *(name + "_std" for name in (*METRICS, "queries", "left_out")),
        *(name + BY_CAMERA_SUFFIX + "_std" for name in METRICS),
    ]


def test_a_run_reports_them_for_every_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_targets(tmp_path / "targets")
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "targets"))
    targets = ("DG_VIPeR", "DG_iLIDS")
    options = ("DATASETS.TESTS", str(targets), "METABIN.TEST.CAMERA_STANDARDIZATION", "True")
    cfg = tiny_config(tmp_path, *options)
    evaluators = [MetaBINTrainer.build_evaluator(cfg, target)[1] for target in targets]
    assert [evaluator._has_cameras for evaluator in evaluators] == [True, False]
    MetaBINTrainer.test(cfg, MetaBINTrainer.build_model(cfg))
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    for target in targets:
        assert {name + BY_CAMERA_SUFFIX for name in METRICS} < written[target].keys()
        assert {name + BY_CAMERA_SUFFIX for name in METRICS} < written[target]["std"].keys()
