"""Ten splits of a target: each image is read once, and each split scored as if it were alone."""

from __future__ import annotations

import csv
import functools
import json
import logging
import statistics
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from metabin_plugin.data import build_dataset, images
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.evaluation import without_repetition, write_results
from tests.engine.tiny_data import tiny_config
from tests.evaluation.target_trees import write_targets

TARGETS = ("DG_VIPeR", "DG_PRID", "DG_GRID", "DG_iLIDS")
METRICS = ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "metric", "queries", "left_out")


class MeanColours(torch.nn.Module):
    """A network that knows colours: the mean of each channel, and of its left half."""

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        images = batch["images"]
        halves = images[..., : images.shape[3] // 2]
        return torch.cat([images.mean((2, 3)), halves.mean((2, 3))], dim=1) - 128


class OneSplit(ImageDataset):
    """Nothing but the given query and gallery."""

    def __init__(self, query: list[Any], gallery: list[Any], **_: Any) -> None:
        super().__init__([], query, gallery)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("targets")
    write_targets(root)
    return root


@pytest.fixture
def cfg(tmp_path: Path, trees: Path, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    monkeypatch.setenv("FASTREID_DATASETS", str(trees))
    return tiny_config(tmp_path, "DATASETS.TESTS", str(TARGETS))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image file was read."""
    counter: Counter[str] = Counter()
    read_rgb = images.read_rgb

    def counted(path: str) -> Any:
        counter[path] += 1
        return read_rgb(path)

    monkeypatch.setattr(images, "read_rgb", counted)
    return counter


def one_by_one(
    cfg: CfgNode, target: str, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, float]]:
    """The metrics of each split of a target, evaluated as a data set of its own."""
    results = []
    for query, gallery in build_dataset(target).splits:
        make = functools.partial(OneSplit, query, gallery)
        monkeypatch.setitem(DATASET_REGISTRY._obj_map, "OneSplit", make)
        loader, evaluator = MetaBINTrainer.build_evaluator(cfg, "OneSplit")
        with torch.no_grad():
            for batch in loader:
                evaluator.process(batch, MeanColours()(batch))
        results.append(evaluator.evaluate())
    return results


def test_each_image_of_the_four_targets_is_read_once(cfg: CfgNode, reads: Counter[str]) -> None:
    MetaBINTrainer.test(cfg, MeanColours())
    expected = {
        item[0]
        for target in TARGETS
        for split in build_dataset(target).splits
        for side in split
        for item in side
    }
    assert len(expected) > 8 * 8
    assert reads == Counter(expected)


@pytest.mark.parametrize("target", TARGETS)
def test_each_split_has_the_numbers_it_has_alone(
    cfg: CfgNode, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.DATASETS.TESTS = (target,)
    results = MetaBINTrainer.test(cfg, MeanColours())
    alone = one_by_one(cfg, target, monkeypatch)
    assert len(alone) == 10
    assert [dict(split) for split in results.splits] == [dict(split) for split in alone]
    assert len({split["mAP"] for split in alone}) > 1
    assert list(results) == [*METRICS, *(f"{name}_std" for name in METRICS)]
    for name in METRICS:
        values = [float(split[name]) for split in alone]
        assert results[name] == pytest.approx(statistics.mean(values), rel=1e-12)
        assert results[f"{name}_std"] == pytest.approx(statistics.stdev(values), rel=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("keys", [("AQE",), ("RERANK",), ("ROC",), ("AQE", "RERANK")])
def test_expansion_reranking_and_roc_are_per_split(
    cfg: CfgNode, metric: str, keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.TEST.METRIC = metric
    for key in keys:
        cfg.TEST[key].ENABLED = True
    cfg.DATASETS.TESTS = ("DG_iLIDS",)
    results = MetaBINTrainer.test(cfg, MeanColours())
    alone = one_by_one(cfg, "DG_iLIDS", monkeypatch)
    assert [dict(split) for split in results.splits] == [dict(split) for split in alone]
    assert ("TPR@FPR=1e-02_std" in results) is ("ROC" in keys)


def test_flip_test_averages_with_the_mirrored_image(cfg: CfgNode, reads: Counter[str]) -> None:
    class Halves(torch.nn.Module):
        seen: ClassVar[list[torch.Tensor]] = []

        def forward(self, batch: dict[str, Any]) -> torch.Tensor:
            self.seen.append(batch["images"].clone())
            return batch["images"][..., :8].mean((2, 3))

    cfg.DATASETS.TESTS = ("DG_VIPeR",)
    cfg.TEST.FLIP.ENABLED = True
    MetaBINTrainer.test(cfg, Halves())
    assert reads and set(reads.values()) == {1}
    for plain, mirrored in zip(Halves.seen[::2], Halves.seen[1::2], strict=True):
        assert torch.equal(plain.flip(3), mirrored)


def test_the_files_hold_mean_deviation_and_every_split(cfg: CfgNode) -> None:
    results = MetaBINTrainer.test(cfg, MeanColours())
    written = json.loads(Path(cfg.OUTPUT_DIR, "results.json").read_text())
    assert list(written) == list(TARGETS)
    for target, numbers in written.items():
        assert list(numbers) == [*METRICS, "std", "splits"]
        for name in METRICS:
            assert numbers[name] == results[target][name]
            assert numbers["std"][name] == results[target][f"{name}_std"]
        assert numbers["splits"] == [dict(split) for split in results[target].splits]
    with open(Path(cfg.OUTPUT_DIR, "results.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["mean", "std", *map(str, range(10))] * 4
    assert [row["target"] for row in rows[::12]] == list(TARGETS)
    assert float(rows[12]["mAP"]) == written["DG_PRID"]["mAP"]
    assert float(rows[13]["mAP"]) == written["DG_PRID"]["std"]["mAP"]
    assert float(rows[23]["mAP"]) == written["DG_PRID"]["splits"][9]["mAP"]


def test_a_target_in_a_table_is_no_formula(tmp_path: Path) -> None:
    write_results({"mAP": -1.0}, ["=shop.csv"], str(tmp_path))
    assert (tmp_path / "results.csv").read_text() == "target,split,mAP\n'=shop.csv,mean,-1.0\n"
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["=shop.csv"]


def test_fastreids_table_shows_the_deviation(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    cfg.DATASETS.TESTS = ("DG_VIPeR",)
    with caplog.at_level(logging.INFO):
        results = MetaBINTrainer.test(cfg, MeanColours())
    # Once a trainer has set up fastreid's logger, pytest catches each of its lines twice.
    (table,) = {text for text in caplog.messages if "| Dataset" in text}
    header, _, row = (line.split("|")[1:-1] for line in table.splitlines() if "|" in line)
    cells = dict(zip((cell.strip() for cell in header), row, strict=True))
    assert cells["mAP"].strip() == f"{results['mAP']:.2f}"
    assert cells["mAP_std"].strip() == f"{results['mAP_std']:.2f}"


def test_a_path_may_have_other_labels_in_another_split() -> None:
    splits = [([("a", 1, 0)], [("b", 1, 1), ("c", 2, 1)]), ([("b", 7, 0)], [("a", 7, 1)])]
    items, members = without_repetition(splits)
    assert [item[0] for item in items] == ["a", "b", "c"]
    sides = [side for split in members for side in split]
    assert [side.positions.tolist() for side in sides] == [[0], [1, 2], [1], [0]]
    assert [side.identities.tolist() for side in sides] == [[1], [1, 2], [7], [7]]
    assert [side.cameras.tolist() for side in sides] == [[0], [1, 1], [0], [1]]


def test_one_split_is_evaluated_as_fastreid_does(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, gallery = build_dataset("DG_VIPeR").splits[0]
    make = functools.partial(OneSplit, query, gallery)
    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "OneSplit", make)
    loader, num_query = MetaBINTrainer.build_test_loader(cfg, "OneSplit")
    kept, evaluator = MetaBINTrainer.build_evaluator(cfg, "OneSplit")
    assert [batch["img_paths"] for batch in kept] == [batch["img_paths"] for batch in loader]
    assert evaluator._num_query == num_query == len(query)
    cfg.DATASETS.TESTS = ("OneSplit",)
    assert list(MetaBINTrainer.test(cfg, MeanColours())) == list(METRICS)
    written = json.loads(Path(cfg.OUTPUT_DIR, "results.json").read_text())
    assert list(written["OneSplit"]) == list(METRICS)


def test_the_test_loader_keeps_to_the_first_split(cfg: CfgNode) -> None:
    loader, num_query = MetaBINTrainer.build_test_loader(cfg, "DG_PRID")
    query, gallery = build_dataset("DG_PRID").splits[0]
    assert [item[0] for item in loader.dataset.img_items] == [item[0] for item in query + gallery]
    assert num_query == len(query)
