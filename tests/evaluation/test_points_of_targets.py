"""Operating points in the files of an evaluation: of each split, camera pair and other target."""

from __future__ import annotations

import csv
import itertools
import logging
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from PIL import Image

from metabin_plugin import evaluation
from metabin_plugin.data import build_dataset
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.evaluation import Images, RankingEvaluator
from metabin_plugin.operating_points import operating_points
from metabin_plugin.ranking import distance_chunks
from metabin_plugin.report import operating_points as report
from tests.engine.tiny_data import tiny_config
from tests.evaluation.target_trees import write_targets
from tests.evaluation.test_scoring import capture
from tests.evaluation.test_splits import MeanColours

TARGETS = ("DG_PRID", "DG_GRID")
FILES = {
    *("operating_points.csv", "operating_points_cameras.csv", "operating_points.png"),
    *("operating_points_histograms.csv", "operating_points_carried.csv"),
}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("targets")
    write_targets(root)
    return root


@pytest.fixture
def cfg(tmp_path: Path, trees: Path, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    monkeypatch.setenv("FASTREID_DATASETS", str(trees))
    return tiny_config(tmp_path, "DATASETS.TESTS", str(TARGETS))


def read(cfg: CfgNode, name: str) -> list[dict[str, str]]:
    with open(Path(cfg.OUTPUT_DIR, f"operating_points{name}.csv"), newline="") as file:
        return list(csv.DictReader(file))


def side(cfg: CfgNode, items: list[Any]) -> Images:
    """The images of some items, one by one through the network."""
    features = []
    for path, *_ in items:
        with Image.open(path) as image:
            size = cfg.INPUT.SIZE_TEST[::-1]
            pixels = np.array(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(pixels).float().permute(2, 0, 1)
        features.append(MeanColours()({"images": pixels[None]})[0])
    identities, cameras = np.array([item[1:3] for item in items]).T
    return Images(torch.stack(features), identities, cameras)


def number(text: str) -> Any:
    return pytest.approx(float(text), rel=1e-5, nan_ok=True)


def test_the_files_hold_mean_deviation_and_every_split(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, report.logger.name)
    with capture(report.logger) as lines:
        MetaBINTrainer.test(cfg, MeanColours())
    assert {path.name for path in Path(cfg.OUTPUT_DIR).glob("operating_points*")} == FILES
    rows = read(cfg, "")
    assert [row["split"] for row in rows] == ["mean", "std", *map(str, range(10))] * 2
    assert [row["target"] for row in rows] == ["DG_PRID"] * 12 + ["DG_GRID"] * 12
    for target, own in zip(TARGETS, (rows[:12], rows[12:]), strict=True):
        dataset = build_dataset(target)
        for split, row in enumerate(own[2:]):
            parts = (*dataset.splits[split], dataset.strangers[split])
            query, gallery, strangers = (side(cfg, items) for items in parts)
            found = operating_points(query, gallery, "cosine", strangers).whole.figures()
            assert list(row)[2:] == list(found)
            assert {k: number(row[k]) for k in found} == found
        for name in ("EER", "d_prime", "threshold@FMR=1e-01", "same"):
            values = [float(row[name]) for row in own[2:]]
            assert statistics.mean(values) == number(own[0][name])
            assert statistics.stdev(values) == number(own[1][name])
    # Queries are camera 0, the gallery camera 1: one pair, which is the whole.
    pairs = read(cfg, "_cameras")
    assert {(row.pop("query_camera"), row.pop("gallery_camera")) for row in pairs} == {("0", "1")}
    assert pairs == rows
    (table,) = (line for line in lines if line.startswith("Operating points"))
    eer, std = (100 * float(row["EER"]) for row in rows[:2])
    assert f"{eer:.1f} ± {std:.1f}" in table
    with Image.open(Path(cfg.OUTPUT_DIR, "operating_points.png")) as figure:
        assert figure.width > 500 and figure.height > 400


def test_histograms_count_the_distances_of_all_splits(cfg: CfgNode) -> None:
    MetaBINTrainer.test(cfg, MeanColours())
    rows = [row for row in read(cfg, "_histograms") if row["target"] == "DG_PRID"]
    assert all(a["below"] == b["from"] for a, b in itertools.pairwise(rows))
    # Eight people, of whom four are drawn: four queries and four gallery images in each split.
    assert sum(int(row["same"]) for row in rows) == 10 * 4
    assert sum(int(row["different"]) for row in rows) == 10 * 4 * 3


def test_a_threshold_is_carried_to_the_other_targets(cfg: CfgNode) -> None:
    MetaBINTrainer.test(cfg, MeanColours())
    rows = read(cfg, "_carried")
    keys = [(float(row["FMR_wanted"]), row["of"], row["on"]) for row in rows]
    assert keys == list(itertools.product((0.1, 0.01, 0.001, 0.0001), TARGETS, TARGETS))
    means = {row["target"]: row for row in read(cfg, "") if row["split"] == "mean"}
    for row, (rate, source, target) in zip(rows, keys, strict=True):
        threshold = float(row["threshold"])
        wanted = float(means[source][f"threshold@FMR={rate:.0e}"])
        if math.isnan(wanted):
            assert math.isnan(threshold) and math.isnan(float(row["TMR"]))
            continue
        assert wanted * (1 - 1e-3) <= threshold <= wanted
        shares = []
        for query, gallery in build_dataset(target).splits:
            one, other = side(cfg, query), side(cfg, gallery)
            (chunk,) = distance_chunks(one.features, other.features, "cosine")
            is_same = one.identities[:, None] == other.identities
            near = chunk.numpy() < threshold
            shares.append((near[~is_same].mean(), near[is_same].mean()))
        for name, values in zip(("FMR", "TMR"), zip(*shares, strict=True), strict=True):
            assert statistics.mean(values) == number(row[name])
            assert statistics.stdev(values) == number(row[f"{name}_std"])


def evaluated(cfg: CfgNode, cameras: int, *, metric: str = "cosine") -> Any:
    random = torch.Generator().manual_seed(0)
    pids = torch.randint(10, (90,), generator=random)
    features = torch.randn(10, 12, generator=random)[pids] + torch.randn(90, 12, generator=random)
    camids = torch.arange(90) % cameras
    cfg.TEST.METRIC = metric
    evaluator = RankingEvaluator(cfg, 30)
    evaluator.reset()
    evaluator.process({"targets": pids, "camids": camids}, features)
    return evaluator.evaluate(), Images(features, pids.numpy(), camids.numpy())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_every_pair_of_cameras_has_its_figures(cfg: CfgNode, metric: str) -> None:
    results, images = evaluated(cfg, 3, metric=metric)
    query, gallery = images.part(slice(30)), images.part(slice(30, None))
    evaluation.write_results(results, ["one"], cfg.OUTPUT_DIR)
    assert not Path(cfg.OUTPUT_DIR, "operating_points_carried.csv").exists()
    rows = read(cfg, "_cameras")
    pairs = [(int(row["query_camera"]), int(row["gallery_camera"])) for row in rows]
    assert pairs == list(itertools.product(range(3), range(3)))
    for row, (one, other) in zip(rows, pairs, strict=True):
        parts = query.part(query.cameras == one), gallery.part(gallery.cameras == other)
        found = operating_points(*parts, metric).whole.figures()
        assert {name: number(row[name]) for name in found} == found
        assert (int(row["same"]) == 0) is (one == other)
    (whole,) = read(cfg, "")
    assert int(whole["different"]) == sum(int(row["different"]) for row in rows)
    assert [row["split"] for row in (whole, *rows)] == ["mean"] * 10


def test_a_pair_of_cameras_that_a_split_lacks_is_nan_in_it(cfg: CfgNode) -> None:
    _, images = evaluated(cfg, 3)
    query, gallery = images.part(slice(30)), images.part(slice(30, None))
    splits = [
        operating_points(query.part(query.cameras <= last), gallery, "cosine") for last in (1, 2)
    ]
    report.write_points({"own": splits}, Path(cfg.OUTPUT_DIR))
    rows = read(cfg, "_cameras")
    of_third = [row for row in rows if row["query_camera"] == "2"]
    assert len(rows) == 9 * 4
    assert [row["split"] for row in of_third] == ["mean", "std", "0", "1"] * 3
    assert {row["EER"] for row in of_third if row["split"] in ("mean", "0")} == {"nan"}
    first = next(row for row in of_third if row["split"] == "1")
    assert float(first["EER"]) == number(str(splits[1].pairs[2, 0].equal_error_rate))
    assert {row["different"] for row in of_third if row["split"] == "0"} == {"0"}


def test_of_too_many_cameras_there_are_no_pairs_and_the_log_says_so(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, report.logger.name)
    results, _ = evaluated(cfg, 3)
    monkeypatch.setattr("metabin_plugin.operating_points.MOST_PAIRS", 8)
    merged, _ = evaluated(cfg, 3)
    with capture(report.logger) as lines:
        evaluation.write_results(merged, ["one"], cfg.OUTPUT_DIR)
    assert any(line.startswith("one has more than") for line in lines)
    assert read(cfg, "_cameras") == []
    whole = results.points[0].whole.figures()
    assert merged.points[0].whole.figures() == pytest.approx(whole, nan_ok=True, rel=1e-6)


def test_plain_distances_are_judged_with_expansion_and_reranking_too(cfg: CfgNode) -> None:
    plain = evaluated(cfg, 3)[0].points
    cfg.TEST.AQE.ENABLED = cfg.TEST.RERANK.ENABLED = True
    np.testing.assert_equal(evaluated(cfg, 3)[0].points[0].whole, plain[0].whole)


def test_without_the_key_there_are_none(cfg: CfgNode) -> None:
    cfg.METABIN.OPERATING_POINTS = False
    results = MetaBINTrainer.test(cfg, MeanColours())
    assert results["DG_PRID"].points == []
    assert Path(cfg.OUTPUT_DIR, "results.csv").exists()
    assert not list(Path(cfg.OUTPUT_DIR).glob("operating_points*"))


def test_without_matplotlib_there_is_no_figure(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    results, _ = evaluated(cfg, 2)
    caplog.set_level(logging.INFO, report.logger.name)
    with capture(report.logger) as lines:
        evaluation.write_results(results, ["=one"], cfg.OUTPUT_DIR)
    assert "operating_points.png is not drawn: matplotlib is not installed" in lines
    assert not Path(cfg.OUTPUT_DIR, "operating_points.png").exists()
    # A name that a spreadsheet would take for a formula.
    assert read(cfg, "")[0]["target"] == "'=one"
