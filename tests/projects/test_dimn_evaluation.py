"""Evaluation of probes against generated classifiers: the ranks of a loop over their products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import get_cfg
from torch import Tensor

from dimn import DIMNTrainer
from dimn.network import probes_and_classifiers
from metabin_plugin.data import build_dataset
from metabin_plugin.evaluation import Members, MultiSplitEvaluator, RankingEvaluator
from tests.engine.tiny_data import tiny_config, write_manifest
from tests.evaluation.target_trees import write_targets


def outputs(count: int, seed: int) -> Tensor:
    """Features of any length beside classifiers of length 1."""
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 5, generator=random) * torch.rand(count, 1, generator=random)
    classifiers = torch.randn(count, 5, generator=random)
    return torch.cat([features, classifiers / classifiers.norm(dim=1, keepdim=True)], dim=1)


def labels(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(6, size=count), random.integers(3, size=count)


def by_loops(query: Tensor, gallery: Tensor, pids: Any, camids: Any) -> tuple[float, float]:
    """Rank-1 and mAP in percent; ``pids`` and ``camids`` are pairs (query, gallery)."""
    firsts, precisions, half = [], [], query.shape[1] // 2
    for q, probe in enumerate(query[:, :half].tolist()):
        ranked = []
        for g, classifier in enumerate(gallery[:, half:].tolist()):
            if (pids[0][q], camids[0][q]) != (pids[1][g], camids[1][g]):
                score = sum(a * b for a, b in zip(probe, classifier, strict=True))
                ranked.append((-score, pids[0][q] == pids[1][g]))
        matches = [match for _, match in sorted(ranked)]
        if any(matches):
            ranks = [place + 1 for place, match in enumerate(matches) if match]
            firsts.append(ranks[0] == 1)
            precisions.append(np.mean([(n + 1) / rank for n, rank in enumerate(ranks)]))
    return 100 * float(np.mean(firsts)), 100 * float(np.mean(precisions))


def process(evaluator: RankingEvaluator, features: Tensor, pids: Any, camids: Any) -> None:
    evaluator.reset()
    evaluator.process({"targets": torch.tensor(pids), "camids": torch.tensor(camids)}, features)


@pytest.mark.parametrize("seed", range(4))
def test_one_query_set_and_gallery(seed: int) -> None:
    features, (pids, camids) = outputs(40, seed), labels(40, seed)
    evaluator = RankingEvaluator(get_cfg(), 12, sides=probes_and_classifiers)
    process(evaluator, features, pids, camids)
    found = evaluator.evaluate()
    expected = by_loops(
        features[:12], features[12:], (pids[:12], pids[12:]), (camids[:12], camids[12:])
    )
    assert (found["Rank-1"], found["mAP"]) == pytest.approx(expected, rel=1e-5)
    # The other way round it is another question.
    assert expected != pytest.approx(
        by_loops(
            features[:12].roll(5, 1),
            features[12:].roll(5, 1),
            (pids[:12], pids[12:]),
            (camids[:12], camids[12:]),
        ),
        rel=1e-3,
    )


def test_an_image_is_probe_in_one_split_and_gallery_in_another() -> None:
    features, (pids, camids) = outputs(40, 9), labels(40, 9)
    orders = [np.random.default_rng(split).permutation(40) for split in range(3)]
    splits = [
        tuple(Members(side, pids[side], camids[side]) for side in (order[:15], order[15:]))
        for order in orders
    ]
    evaluator = MultiSplitEvaluator(get_cfg(), splits, sides=probes_and_classifiers)
    process(evaluator, features, pids, camids)
    found = evaluator.evaluate()
    for order, metrics in zip(orders, found.splits, strict=True):
        query, gallery = order[:15], order[15:]
        expected = by_loops(
            features[query],
            features[gallery],
            (pids[query], pids[gallery]),
            (camids[query], camids[gallery]),
        )
        assert (metrics["Rank-1"], metrics["mAP"]) == pytest.approx(expected, rel=1e-5)


class Colours(torch.nn.Module):
    """Features that know colours, and classifiers that know where they are."""

    def forward(self, batch: dict[str, Any]) -> Tensor:
        images = batch["images"] - 128
        features = images.mean((2, 3))
        classifiers = images[..., : images.shape[3] // 2].mean((2, 3)) + features.flip(1)
        return torch.cat([features, torch.nn.functional.normalize(classifiers)], dim=1)


class Noise(torch.nn.Module):
    """Random outputs, which it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Tensor] = []

    def forward(self, batch: dict[str, Any]) -> Tensor:
        self.rows.append(outputs(len(batch["images"]), len(self.rows)))
        return self.rows[-1]


def test_the_trainer_compares_so(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path)
    write_manifest(tmp_path, "target", 99, identities=8, images=5, subset="test")
    network = Noise()
    results = DIMNTrainer.test(cfg, network)
    loader, queries = DIMNTrainer.build_test_loader(cfg, cfg.DATASETS.TESTS[0])
    batches = [(batch["targets"], batch["camids"]) for batch in loader]
    pids, camids = (torch.cat(parts).tolist() for parts in zip(*batches, strict=True))
    rows = torch.cat(network.rows)
    sides = [(values[:queries], values[queries:]) for values in (pids, camids)]
    expected = by_loops(rows[:queries], rows[queries:], *sides)
    assert (results["Rank-1"], results["mAP"]) == pytest.approx(expected, rel=1e-5)


def test_the_trainer_compares_so_in_all_ten_splits_of_a_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_targets(tmp_path)
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    cfg = tiny_config(tmp_path, "DATASETS.TESTS", '("DG_VIPeR",)')
    results = DIMNTrainer.test(cfg, Colours())
    loader, _ = DIMNTrainer.build_evaluator(cfg, "DG_VIPeR")
    found: dict[str, Tensor] = {}
    for batch in loader:
        rows = Colours()(batch)
        found.update(zip(batch["img_paths"], rows, strict=True))
    splits = build_dataset("DG_VIPeR").splits
    assert len(results.splits) == len(splits) == 10
    for (query, gallery), metrics in zip(splits, results.splits, strict=True):
        sides = [torch.stack([found[item[0]] for item in side]) for side in (query, gallery)]
        pids, camids = ([[i[k] for i in side] for side in (query, gallery)] for k in (1, 2))
        first, precision = by_loops(sides[0], sides[1], pids, camids)
        assert metrics["Rank-1"] == pytest.approx(first, rel=1e-5)
        assert metrics["mAP"] == pytest.approx(precision, rel=1e-5)
