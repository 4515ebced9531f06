from __future__ import annotations

import warnings

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.engine import DefaultTrainer

from tests.engine.tiny_data import write_manifest


def config_of_everything(folder) -> CfgNode:
    """A tiny run of fastreid's own architecture with every augmentation, metric and hook on."""
    source = str(write_manifest(folder, "source", 0))
    target = str(write_manifest(folder, "target", 1, subset="test"))
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("DATASETS.NAMES", (source,), "DATASETS.TESTS", (target,), "MODEL.DEVICE", "cpu"),
            *("MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", 512),
            *("DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler", "DATALOADER.NUM_INSTANCE", 2),
            *("INPUT.SIZE_TRAIN", [128, 64], "INPUT.SIZE_TEST", [32, 16]),
            *("INPUT.AUTOAUG.ENABLED", True, "INPUT.AUTOAUG.PROB", 1.0, "INPUT.CJ.ENABLED", True),
            *("INPUT.AFFINE.ENABLED", True, "INPUT.AUGMIX.ENABLED", True, "INPUT.AUGMIX.PROB", 1.0),
            *("INPUT.RPT.ENABLED", True, "INPUT.REA.ENABLED", True, "INPUT.PADDING.ENABLED", True),
            *("SOLVER.IMS_PER_BATCH", 8, "SOLVER.MAX_EPOCH", 2, "SOLVER.WARMUP_ITERS", 2),
            *("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.AMP.ENABLED", True),
            *("TEST.EVAL_PERIOD", 1, "TEST.IMS_PER_BATCH", 8, "TEST.ROC.ENABLED", True),
            *("TEST.FLIP.ENABLED", True, "TEST.AQE.ENABLED", True, "TEST.AQE.QE_K", 2),
            *("TEST.RERANK.ENABLED", True, "TEST.RERANK.K1", 3, "TEST.RERANK.K2", 2),
            *("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.DATASET", source),
            *("TEST.PRECISE_BN.NUM_ITER", 2, "OUTPUT_DIR", str(folder / "logs")),
        ]
    )
    return cfg


@pytest.mark.slow
def test_fastreids_own_training_runs_on_cpu_with_everything_on(tmp_path):
    (tmp_path / "logs").mkdir()
    cfg = config_of_everything(tmp_path)
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        results = trainer.train()
    assert {"Rank-1", "mAP", "mINP", "TPR@FPR=1e-02"} <= set(results)
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert all(moved)
    assert not [str(warning.message) for warning in seen if "fastreid" in warning.filename]

    resumed = DefaultTrainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_epoch == 2
    for ours, theirs in zip(resumed.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
