"""An image that breaks during a run: the run ends with its path, and keeps what it had."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
import torch
from fastreid.modeling.backbones import BACKBONE_REGISTRY

from metabin_plugin.cli.outcome import sentence
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import DatasetError
from tests.config.test_any_config import build_two_convolutions
from tests.engine.tiny_data import tiny_config


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("folder", ["source1", "target"])
def test_truncated_images_stop_training_and_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, workers: str
) -> None:
    name = build_two_convolutions.__name__
    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, name, build_two_convolutions)
    network = ["MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.FEAT_DIM", "4"]
    options = ["DATALOADER.NUM_WORKERS", workers, "SOLVER.MAX_EPOCH", "6"]
    trainer = MetaBINTrainer(tiny_config(tmp_path, *network, *options))
    evaluate = trainer.test
    images = sorted((tmp_path / folder).glob("2_*.png"))

    def break_and_evaluate(*arguments: object) -> object:
        # After epoch 2: the checkpoint of epoch 1 is there already.
        for image in images:
            image.write_bytes(image.read_bytes()[:60])
        return evaluate(*arguments)

    trainer.test = break_and_evaluate
    with pytest.raises(DatasetError) as caught:
        trainer.train()
    text = sentence(caught.value)
    assert any(str(image) in text for image in images)
    assert len(text.splitlines()) == 1
    # A loader that only the garbage collector frees waits 5 seconds for its workers.
    traceback.clear_frames(caught.tb)
    checkpoints = list((tmp_path / "out").glob("model_*.pth"))
    assert checkpoints
    assert all(torch.load(path, weights_only=True)["model"] for path in checkpoints)
