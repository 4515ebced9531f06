"""Interleaved learning: what the second pass sees, changes and leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fastreid.config import CfgNode
from torch import Tensor, nn

from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling import BaseRows
from metabin_plugin.modeling import base_losses as module
from metabin_plugin.style import restyle
from tests.distributed import small_backbone
from tests.engine.starting import started
from tests.engine.tiny_data import tiny_config

IL = ["METABIN.BASE_LOSSES", '("InterleavedMemory",)']
LAYERS = ["METABIN.INTERLEAVED_MEMORY.LAYERS", '("2",)']


def config(folder: Path, *options: str) -> CfgNode:
    return tiny_config(folder, *small_backbone.OPTIONS, *IL, *LAYERS, *options)


def network_of(folder: Path, *options: str) -> nn.Module:
    torch.manual_seed(0)
    return MetaBINTrainer.build_model(config(folder, "MODEL.HEADS.NUM_CLASSES", "4", *options))


def rows() -> BaseRows:
    images = torch.randn(6, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 0, 1, 1, 3, 3])
    return BaseRows(torch.ones(6, 24), None, targets, targets % 2, images)


def test_the_memory_follows_the_features_of_drawn_styles(tmp_path: Path) -> None:
    network = network_of(tmp_path)
    loss = network.base_losses["InterleavedMemory"]
    batch = rows()
    style = (torch.rand(6, 8, 1, 1), torch.rand(6, 8, 1, 1) + 0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad(), mock.patch.object(module, "draw_styles", return_value=style):
        loss.update(batch, network)
    # Weights and running statistics are as they were.
    assert all(torch.equal(before[n], value) for n, value in network.state_dict().items())
    with torch.no_grad():
        early = network.backbone[:3](batch.images)
        pooled = network.backbone[3:](restyle(early, *style)).mean(dim=(2, 3))
        necks = network.heads.bottleneck(pooled[:, :, None, None]).flatten(1)
    expected = nn.functional.normalize(necks)
    for identity in (0, 1, 3):
        mean = expected[batch.targets == identity].mean(dim=0)
        torch.testing.assert_close(loss.memory.features[identity], mean / mean.norm())
        assert loss.memory.domains[identity] == identity % 2
    assert loss.memory.domains[2] == -1


def test_the_second_pass_is_after_the_step_and_without_gradients(tmp_path: Path) -> None:
    trainer = started(config(tmp_path))
    seen: list[tuple[str, bool, int]] = []

    def look(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(("pass", torch.is_grad_enabled(), len(inputs[0])))

    trainer.network.backbone[0].register_forward_pre_hook(look)
    trainer.optimizer.register_step_post_hook(lambda *_: seen.append(("step", True, 0)))
    with trainer.storage:
        trainer.run_step()
    assert seen == [("pass", True, 12), ("step", True, 0), ("pass", False, 12)]
    known = trainer.network.base_losses["InterleavedMemory"].memory.domains
    assert (known >= 0).sum() >= 3
    # The identities of one batch need not be those of the next.
    with trainer.storage:
        for trainer.iter in range(1, 5):
            trainer.storage.iter = trainer.iter
            trainer.run_step()
    assert max(v for v, _ in trainer.storage.history("loss_interleavedmemory").values()) > 0


def test_it_passes_in_half_precision_too(tmp_path: Path) -> None:
    network = network_of(tmp_path, "SOLVER.AMP.ENABLED", "True")
    dtypes: list[torch.dtype] = []

    def keep(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        dtypes.append(output.dtype)

    network.backbone[3].register_forward_hook(keep)
    loss = network.base_losses["InterleavedMemory"]
    with torch.no_grad():
        loss.update(rows(), network)
    assert dtypes == [torch.bfloat16]
    assert loss.memory.features.dtype == torch.float32 and loss.memory.features.isfinite().all()


def test_the_default_layer_is_the_end_of_the_first_stage(tmp_path: Path) -> None:
    names = ["METABIN.INTERLEAVED_MEMORY.LAYERS", "()", "MODEL.HEADS.NUM_CLASSES", "4"]
    network = MetaBINTrainer.build_model(tiny_config(tmp_path, *IL, *names))
    early: list[tuple[int, ...]] = []
    network.backbone.layer1[-1].register_forward_hook(lambda *args: early.append(args[2].shape))
    with torch.no_grad(), mock.patch.object(module, "restyle", wraps=restyle) as changed:
        loss = network.base_losses["InterleavedMemory"]
        targets = torch.tensor([0, 1, 2, 3])
        images = torch.randn(4, 3, 32, 16)
        loss.update(BaseRows(torch.ones(4, 512), None, targets, targets, images), network)
    assert [call.args[0].shape for call in changed.call_args_list] == early


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ('("layer1",)', "INTERLEAVED_MEMORY.LAYERS has 'layer1', which the backbone lacks"),
        ("()", "INTERLEAVED_MEMORY.LAYERS is empty, and its default .* is nothing; name early"),
        ('("2", "2")', "twice"),
    ],
)
def test_layers_that_are_not_there_are_refused(tmp_path: Path, layers: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        network_of(tmp_path, "METABIN.INTERLEAVED_MEMORY.LAYERS", layers)


def test_layers_that_cannot_be_restyled_are_refused(tmp_path: Path) -> None:
    network = network_of(tmp_path)
    loss = network.base_losses["InterleavedMemory"]
    uncalled = mock.patch.object(loss, "_layers", return_value=[nn.ReLU()])
    with torch.no_grad(), uncalled, pytest.raises(ConfigError, match="does not call; name others"):
        loss.update(rows(), network)
    network.backbone.add_module("9", nn.Flatten(2))
    flat = mock.patch.object(loss, "_layers", return_value=[network.backbone[-1]])
    with torch.no_grad(), flat, pytest.raises(ConfigError, match="gives no feature map"):
        loss.update(rows(), network)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["METABIN.INTERLEAVED_MEMORY.TEMPERATURE", "0.0"], "must be at least 0.001"),
        (["METABIN.INTERLEAVED_MEMORY.MOMENTUM", "-0.1"], "must be at least 0 and at most 1"),
        (["METABIN.INTERLEAVED_MEMORY.STYLE_REACH", "-1.0"], "must be at least 0"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, option: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        network_of(tmp_path, *option)
