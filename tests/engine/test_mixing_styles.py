"""MixStyle by config: in the base step alone, behind early layers of any backbone, and off."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode
from torch import Tensor

from metabin_plugin import style
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling.backbones import BACKBONES, FAMILIES, KnownBackbone
from metabin_plugin.style import last_part
from tests.distributed import small_backbone
from tests.engine.starting import started
from tests.engine.tiny_data import HALF_PRECISION, tiny_config

ON = ("METABIN.MIXSTYLE.PROBABILITY", "1.0")
LAYERS = ("METABIN.MIXSTYLE.LAYERS", '("2", "5")')


def small(folder: Path, *options: str) -> CfgNode:
    return tiny_config(folder, *small_backbone.OPTIONS, *options)


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The feature maps that were mixed."""
    seen: list[Tensor] = []
    original = style.mix_style

    def watched(x: Tensor, *arguments: Any) -> Tensor:
        seen.append(x)
        return original(x, *arguments)

    monkeypatch.setattr(style, "mix_style", watched)
    return seen


def test_the_base_step_alone_mixes(tmp_path: Path, mixed: list[Tensor]) -> None:
    trainer = started(small(tmp_path, *ON, *LAYERS))
    trainer.train()
    # Two layers in each of four base steps; batches of 12, where the meta step has 8 and 4.
    assert [len(x) for x in mixed] == [12] * 8
    assert [x.shape[1] for x in mixed] == [8, 16] * 4


def test_the_check_of_half_precision_mixes_nothing(tmp_path: Path, mixed: list[Tensor]) -> None:
    half = (*HALF_PRECISION, "SOLVER.MAX_EPOCH", "1", "TEST.EVAL_PERIOD", "0")
    trainer = started(small(tmp_path, *ON, *LAYERS, *half))
    trainer.train()
    # Two layers in each of two base steps, and not its pass of one image.
    assert [len(x) for x in mixed] == [12] * 4


def test_off_by_default(tmp_path: Path) -> None:
    network = started(small(tmp_path)).network
    assert not network._forward_pre_hooks and not network._forward_hooks


def test_another_norm_and_architecture_mixes_too(tmp_path: Path, mixed: list[Tensor]) -> None:
    changes = ("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.BACKBONE.NORM", "BN")
    trainer = started(small(tmp_path, *ON, *LAYERS, *changes, "METABIN.HOOKS", "()"))
    trainer.train()
    assert len(mixed) == 8


@pytest.mark.parametrize("backbone", [b for b in BACKBONES if not b.flags], ids=str)
def test_every_known_backbone_has_the_default_layers(backbone: KnownBackbone) -> None:
    network = backbone.build()
    for name in FAMILIES[backbone.name].early:
        network.get_submodule(name)


SMALLEST = {b.name: b for b in reversed(BACKBONES)}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_layers_are_called_and_give_large_maps(name: str) -> None:
    network = SMALLEST[name].build().eval()
    calls: Counter[str] = Counter()
    for part in FAMILIES[name].early:

        def count(_layer: Any, _inputs: Any, x: Tensor, part: str = part) -> None:
            calls[part] += 1
            assert x.shape[2] in (128, 64, 32, 16)

        last_part(network.get_submodule(part)).register_forward_hook(count)
    network(torch.empty(2, 3, 256, 128, device="meta"))
    assert calls == Counter(FAMILIES[name].early)


def test_layers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"LAYERS has 'layer1', which the backbone lacks"):
        MetaBINTrainer(small(tmp_path, *ON, "METABIN.MIXSTYLE.LAYERS", '("layer1",)'))
    with pytest.raises(ConfigError, match=r"default for build_small_backbone is nothing"):
        MetaBINTrainer(small(tmp_path, *ON))


def test_a_compiled_backbone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"COMPILE is True, but a compiled backbone does not mix"):
        MetaBINTrainer(small(tmp_path, *ON, *LAYERS, "METABIN.COMPILE", "True"))
