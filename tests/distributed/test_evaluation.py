"""Evaluation shared by several ranks against evaluation by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fastreid.config import CfgNode

from metabin_plugin import evaluation
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.evaluation import Images
from tests.distributed import small_backbone
from tests.distributed.processes import run_ranks
from tests.engine.tiny_data import tiny_config, write_manifest
from tests.evaluation.target_trees import write_targets


def small_model(cfg: CfgNode, rank: int) -> torch.nn.Module:
    """The same weights on every rank, other running statistics on each."""
    torch.manual_seed(2)
    model = MetaBINTrainer.build_model(cfg)
    torch.manual_seed(10 + rank)
    for name, buffer in model.named_buffers():
        if "running_" in name:
            buffer.uniform_(0.5, 2)
    return model


def evaluate(rank: int, cfg: CfgNode) -> list[torch.Tensor]:
    """Features of queries and gallery where they are compared."""
    gathered: list[torch.Tensor] = []
    real = evaluation.score

    def keep(cfg: CfgNode, query: Images, gallery: Images) -> Any:
        gathered.extend([query.features, gallery.features])
        return real(cfg, query, gallery)

    with mock.patch.object(evaluation, "score", keep):
        MetaBINTrainer.test(cfg, small_model(cfg, rank))
    return gathered


@pytest.mark.slow
# Shares of 6, 6 and 4 images; and of 3, 3, 3, 2 and none.
@pytest.mark.parametrize(("size", "identities", "images"), [(3, 4, 4), (5, 1, 11)])
def test_ranks_evaluate_the_network_of_rank_0_together(
    tmp_path: Path, size: int, identities: int, images: int
) -> None:
    options = [*small_backbone.OPTIONS, "MODEL.HEADS.NUM_CLASSES", "12"]
    cfg = tiny_config(tmp_path, *options, "SOLVER.IMS_PER_BATCH", "30")
    write_manifest(tmp_path, "target", 99, identities, images, subset="test")
    results, features = {}, {}
    for ranks in (1, size):
        cfg.OUTPUT_DIR = str(tmp_path / f"out{ranks}")
        first, *others = run_ranks(tmp_path / f"run{ranks}", ranks, evaluate, cfg)
        assert others == [[]] * (ranks - 1)
        features[ranks] = first
        results[ranks] = json.loads((tmp_path / f"out{ranks}" / "results.json").read_text())
    assert results[size] == results[1]
    # One gathering: each image once, in the order of the data set.
    assert [len(part) for part in features[size]] == [identities, identities * (images - 1)]
    torch.testing.assert_close(features[size], features[1], rtol=1e-5, atol=1e-5)


def evaluate_splits(rank: int, cfg: CfgNode, root: str) -> list[torch.Tensor]:
    """As :func:`evaluate`, with the data sets under ``root``."""
    with mock.patch.dict("os.environ", FASTREID_DATASETS=root):
        return evaluate(rank, cfg)


@pytest.mark.slow
def test_ranks_extract_the_images_of_all_splits_together(tmp_path: Path) -> None:
    write_targets(tmp_path)
    options = [*small_backbone.OPTIONS, "MODEL.HEADS.NUM_CLASSES", "12"]
    cfg = tiny_config(tmp_path, *options, "DATASETS.TESTS", '("DG_PRID", "DG_iLIDS")')
    results, features = {}, {}
    for ranks in (1, 3):
        cfg.OUTPUT_DIR = str(tmp_path / f"out{ranks}")
        args = (evaluate_splits, cfg, str(tmp_path))
        first, *others = run_ranks(tmp_path / f"run{ranks}", ranks, *args)
        assert others == [[]] * (ranks - 1)
        features[ranks] = first
        results[ranks] = json.loads((tmp_path / f"out{ranks}" / "results.json").read_text())
    # Query and gallery of ten splits of two targets.
    assert len(features[1]) == len(features[3]) == 40
    for one, shared in zip(features[1], features[3], strict=True):
        torch.testing.assert_close(shared, one, rtol=1e-5, atol=1e-5)
    assert len(results[3]["DG_iLIDS"]["splits"]) == 10
    assert results[3] == results[1]
