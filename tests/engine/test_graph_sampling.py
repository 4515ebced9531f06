"""Graphs of identities in a training: when they are made, of what, and who draws from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode
from torch import Tensor

from metabin_plugin.data import DomainBalancedSampler, GraphSampler
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.engine.graph_sampling import GraphHook
from tests.distributed import small_backbone
from tests.engine.noisy_run import noisy_options, train
from tests.engine.test_resume import difference, outcome
from tests.engine.tiny_data import tiny_config

GRAPH = ("DATALOADER.SAMPLER_TRAIN", "GraphSampler", "METABIN.GRAPH_SAMPLER.PERIOD", "2")


def small(folder: Path, *options: str) -> CfgNode:
    return tiny_config(folder, *small_backbone.OPTIONS, *options)


def described(trainer: MetaBINTrainer, images: list[int]) -> Tensor:
    """Features of training images, one by one, as the evaluation takes them."""
    hook = trainer.hook(GraphHook)
    dataset = trainer.data_loader.dataset
    transform, dataset.transform = dataset.transform, hook._transform
    trainer.model.eval()
    with torch.no_grad():
        rows = [trainer.model({"images": dataset[i]["images"][None]})[0] for i in images]
    trainer.model.train()
    dataset.transform = transform
    return torch.stack(rows)


def test_graphs_are_of_the_network_before_their_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = MetaBINTrainer(small(tmp_path, *GRAPH, "TEST.EVAL_PERIOD", "0"))
    made: list[int] = []
    original = GraphSampler.connect

    def watched(self: GraphSampler, nodes: Any, features: Tensor) -> None:
        made.append(trainer.iter)
        expected = described(trainer, nodes.images)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
        assert trainer.model.training
        original(self, nodes, features)

    drawn: list[list[int]] = []

    def step() -> None:
        sampler = trainer.data_loader.batch_sampler.sampler
        drawn.append(sampler.batch(trainer.iter))
        before(trainer)

    monkeypatch.setattr(GraphSampler, "connect", watched)
    before = type(trainer).run_step
    seen: list[list[str]] = []
    forward = trainer.model.forward

    def forward_and_see(batch: Any) -> Any:
        if trainer.model.training:
            seen.append(batch["img_paths"])
        return forward(batch)

    monkeypatch.setattr(trainer, "run_step", step)
    monkeypatch.setattr(trainer.model, "forward", forward_and_see)
    trainer.train()
    assert made == [0, 2]
    # What the base step of each iteration saw is of the graph that was made before it.
    items = trainer.data_loader.dataset.img_items
    assert seen == [[items[image][0] for image in batch] for batch in drawn]


def test_the_meta_step_draws_any_identities(tmp_path: Path) -> None:
    trainer = MetaBINTrainer(small(tmp_path, *GRAPH))
    own = trainer.hook("MetaLearningHook").batches
    assert type(own._loader.batch_sampler.sampler) is DomainBalancedSampler


def test_other_samplers_have_no_graph(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        MetaBINTrainer(small(tmp_path)).hook(GraphHook)


@pytest.mark.slow
def test_workers_make_no_difference(tmp_path: Path) -> None:
    changes = {"DATALOADER__SAMPLER_TRAIN": "GraphSampler", "METABIN__GRAPH_SAMPLER__PERIOD": 3}
    options = noisy_options(tmp_path, SOLVER__MAX_EPOCH=2, **changes)
    for workers in ("0", "2"):
        folder = str(tmp_path / workers)
        train([*options, "OUTPUT_DIR", folder, "DATALOADER.NUM_WORKERS", workers])
    assert difference(outcome(tmp_path / "0"), outcome(tmp_path / "2")) == ""
