"""Memory format, compilation, norm form and allocator: set by key, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode
from torch import Tensor, nn
from torch._dynamo.utils import counters

from metabin_plugin.config import check
from metabin_plugin.engine import MetaBINTrainer, network_options, trainer
from metabin_plugin.errors import ConfigError, NonFiniteError
from tests.distributed import small_backbone
from tests.engine.starting import started
from tests.engine.tiny_data import tiny_config

IMAGES = 24


def config(folder: Path, *options: str) -> CfgNode:
    return tiny_config(
        folder, *small_backbone.OPTIONS, "SOLVER.IMS_PER_BATCH", str(IMAGES), *options
    )


def iterations(built: MetaBINTrainer, number: int = 2) -> dict[str, Tensor]:
    """Whole iterations; everything that the network then holds."""
    with built.storage:
        for built.iter in range(number):
            built.run_step()
            built.hook("MetaLearningHook").after_step()
    return {name: value.clone() for name, value in built.model.state_dict().items()}


def assert_same_numbers(state: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(state) == list(other)
    torch.testing.assert_close(state, other, rtol=1e-4, atol=1e-5)


def test_every_convolution_meets_channels_last(tmp_path: Path) -> None:
    plain = iterations(started(config(tmp_path)))
    built = started(config(tmp_path, "METABIN.CHANNELS_LAST", "True"))
    met: list[bool] = []

    def look(_layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        (x,) = inputs
        met.append(x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous())

    for layer in built.model.backbone:
        layer.register_forward_pre_hook(look)
    state = iterations(built)
    layers = len(built.model.backbone)
    # Of each iteration one base and two meta-learning passes.
    assert met == [True] * 6 * layers
    assert_same_numbers(state, plain)
    met.clear()
    built.model.eval()
    with torch.no_grad():
        built.model({"images": torch.rand(3, 3, 32, 16)})
    assert met == [True] * layers


def test_other_inputs_of_a_backbone_pass_through() -> None:
    rows, maps = torch.rand(2, 3), torch.rand(2, 3, 4, 5)
    given = network_options._channels_last(nn.Identity(), (rows, "word", maps))
    assert given[0] is rows
    assert given[1] == "word"
    assert given[2].stride() == (60, 1, 15, 3)


def test_the_norm_form_reaches_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[nn.Module, str]] = []
    monkeypatch.setattr(network_options, "set_norm_form", lambda *given: seen.append(given))
    built = started(config(tmp_path, "METABIN.NORM_FORM", "plain"))
    assert seen == [(built.model, "plain")]


def test_compilation_needs_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_function: object) -> None:
        raise RuntimeError("no compiler was found")

    monkeypatch.setattr(torch, "compile", fails)
    sentence = r"METABIN\.COMPILE is True, but .* fails on cpu \(no compiler was found\)"
    with pytest.raises(ConfigError, match=sentence):
        started(config(tmp_path, "METABIN.COMPILE", "True"))


def test_a_norm_form_of_another_device_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ConfigError, match=r"METABIN\.NORM_FORM: .* no triton form on cpu"):
        started(config(tmp_path, "METABIN.NORM_FORM", "triton"))


def test_the_log_says_why_triton_compiles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fault = "RuntimeError: Failed to find C compiler"
    monkeypatch.setattr(network_options, "choose_form", lambda *_given: "plain")
    monkeypatch.setattr(network_options.triton_form, "fault_on", lambda _device: fault)
    started(config(tmp_path, "METABIN.NORM_FORM", "plain"))
    assert fault not in caplog.text
    started(config(tmp_path))
    assert fault in caplog.text


@pytest.mark.parametrize("key", ["CHANNELS_LAST", "COMPILE"])
def test_an_architecture_without_a_backbone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    cfg = config(tmp_path)
    cfg.METABIN[key] = True
    monkeypatch.setattr(network_options, "_require_compiler", lambda _device: None)
    with pytest.raises(ConfigError, match=rf"METABIN\.{key} is True, but .* no backbone"):
        network_options.apply_network_options(nn.Linear(1, 1), cfg)


@pytest.mark.parametrize(
    ("device", "key", "times"), [("cpu", True, 1), ("cpu", False, 0), ("cuda:0", True, 0)]
)
def test_memory_is_kept_where_a_network_is_on_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, key: bool, times: int
) -> None:
    calls: list[int] = []
    cfg = config(tmp_path)
    cfg.METABIN.KEEP_MEMORY, cfg.MODEL.DEVICE = key, device
    monkeypatch.setattr(check, "check_config", lambda _cfg: None)
    monkeypatch.setattr(trainer, "build_network", lambda _build, _cfg: nn.Identity())
    monkeypatch.setattr(trainer, "keep_freed_memory", lambda: calls.append(1))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    MetaBINTrainer.build_model(cfg)
    assert len(calls) == times


def test_the_gpu_that_is_named_becomes_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the kernels of a network on cuda:1 would be launched on cuda:0."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(check, "check_config", lambda _cfg: None)
    monkeypatch.setattr(trainer, "build_network", lambda _build, _cfg: nn.Identity())
    monkeypatch.setattr(trainer, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    cfg = config(tmp_path)
    for name in ("cpu", "cpu:0", "cuda", "cuda:1"):
        cfg.MODEL.DEVICE = name
        MetaBINTrainer.build_model(cfg)
    assert chosen == [torch.device("cuda:1")]


@pytest.mark.slow
def test_a_compiled_backbone_trains_evaluates_and_explains(tmp_path: Path) -> None:
    plain = started(config(tmp_path))
    expected = iterations(plain)
    torch._dynamo.reset()
    built = started(config(tmp_path, "METABIN.COMPILE", "True", "METABIN.CHANNELS_LAST", "True"))
    counters.clear()
    assert_same_numbers(iterations(built), expected)
    # The base step; both meta sizes, which a compiler may tell apart.
    trained = counters["stats"]["unique_graphs"]
    assert 2 <= trained <= 3
    iterations(built)
    assert counters["stats"]["unique_graphs"] == trained

    built.model.eval()
    with torch.no_grad():
        for size in (16, 16, 7, 5, 16):
            built.model({"images": torch.rand(size, 3, 32, 16)})
    # The first size, and all others.
    assert counters["stats"]["unique_graphs"] <= trained + 2
    assert not counters["graph_break"]
    built.model.train()

    # A checkpoint is that of any other setting.
    plain.model.load_state_dict(built.model.state_dict())
    with torch.no_grad():
        built.model.backbone[3].weight.fill_(3e38)
    versions = counters["stats"]["unique_graphs"]
    with built.storage, pytest.raises(NonFiniteError, match=r"backbone\.3 \(Conv2d\)"):
        built.run_step()
    # To look for the place takes no version with hooks in it.
    assert counters["stats"]["unique_graphs"] == versions
