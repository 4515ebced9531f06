"""Averaged weights: the average itself, and that a run evaluates, saves and goes on with it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metabin_plugin.engine import MetaBINTrainer, check_config, trained_network
from metabin_plugin.engine.averaging import WeightAverage, decay_at
from metabin_plugin.errors import ConfigError, WeightsError
from metabin_plugin.norm import BatchInstanceNorm2d
from tests.distributed import small_backbone
from tests.engine.noisy_run import noisy_options, noisy_trainer
from tests.engine.test_meta_cost import Operators
from tests.engine.test_resume import difference
from tests.engine.tiny_data import tiny_config

AVERAGED: dict[str, Any] = {"METABIN__AVERAGE__DECAY": 0.6, "SOLVER__MAX_EPOCH": 2}


def config(tmp_path: Path, *options: str, decay: float = 0.9, **named: str) -> Any:
    return tiny_config(
        tmp_path,
        *small_backbone.OPTIONS,
        "METABIN.AVERAGE.DECAY",
        str(decay),
        *options,
        **named,
    )


def numbers_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def averages(history: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """The average of a history, its first entry included, as a weighted sum written out."""
    weights = [1.0]
    for update in range(len(history) - 1):
        kept = min(decay, (1 + update) / (10 + update))
        weights = [*(kept * weight for weight in weights), 1 - kept]
    return {
        name: sum(w * values[name].double() for w, values in zip(weights, history, strict=True))
        for name in history[0]
    }


# --- the average


def test_the_decay_is_warmed_up() -> None:
    rates = [decay_at(update, 0.99) for update in range(2000)]
    assert rates == sorted(rates)
    assert rates[0] == 0.1
    assert rates[-1] == 0.99
    # 891 / 900.
    assert rates[889] < 0.99 == pytest.approx(rates[890])
    left = 1.0
    for update in range(500):
        left *= decay_at(update, 0.999)
    # Of the initial weights, after 500 iterations.
    assert left < 1e-15


@pytest.mark.parametrize("of", ["all", "gates"])
def test_the_average_equals_a_weighted_sum_in_float64(tmp_path: Path, of: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 1), BatchInstanceNorm2d(3), nn.Flatten(), nn.BatchNorm1d(12)
    ).double()
    average = WeightAverage(config(tmp_path, "METABIN.AVERAGE.OF", of), network)
    history = [numbers_of(network)]
    for step in range(30):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        network(torch.randn(4, 2, 2, 2, dtype=torch.float64) + step)
        average.after_step()
        history.append(numbers_of(network))
    expected = averages(history, 0.9)
    for name, found in numbers_of(average.network).items():
        is_averaged = found.is_floating_point() and (of == "all" or name.endswith("gate"))
        if is_averaged:
            torch.testing.assert_close(found, expected[name], rtol=1e-12, atol=1e-12, msg=name)
            assert not torch.equal(found, history[-1][name]), name
        else:
            assert torch.equal(found, history[-1][name]), name
    assert difference(history[-1], average.state_dict()["model"]) == ""


# One without whole numbers, too.
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4)])
def test_a_constant_network_is_its_average_bit_for_bit(tmp_path: Path, norm: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm)
    average = WeightAverage(config(tmp_path), network)
    before = numbers_of(network)
    for _ in range(20):
        average.after_step()
    assert difference(before, numbers_of(average.network)) == ""


def test_an_update_launches_what_it_does_for_any_number_of_layers(tmp_path: Path) -> None:
    counts = []
    for layers in (1, 20):
        norms = nn.Sequential(*(nn.BatchNorm2d(4) for _ in range(layers)))
        average = WeightAverage(config(tmp_path), norms)
        with Operators() as operators:
            average.after_step()
        # Views, which launch nothing.
        del operators.counts["detach"]
        counts.append(operators.counts)
    assert counts[0] == counts[1] == {"_foreach_lerp_": 1, "_foreach_copy_": 1}


# --- in a run


def follow(trainer: MetaBINTrainer) -> list[dict[str, Tensor]]:
    """Train to the end; the trained network at the start and after each iteration."""
    history = [numbers_of(trainer.network)]
    step = trainer._hooks[-1].after_step

    def after_step() -> None:
        history.append(numbers_of(trainer.network))
        step()

    trainer._hooks[-1].after_step = after_step
    trainer.train()
    return history


NETWORKS = {
    "MetaBIN": {},
    "BN": {
        "MODEL__META_ARCHITECTURE": "Baseline",
        "MODEL__BACKBONE__NORM": "BN",
        "METABIN__HOOKS": "()",
    },
    "joint BIN": {"MODEL__META_ARCHITECTURE": "Baseline", "METABIN__HOOKS": "()"},
    "bfloat16": {"SOLVER__AMP__ENABLED": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_a_run_hands_on_the_average(tmp_path: Path, network: str) -> None:
    options = noisy_options(tmp_path, **AVERAGED, **NETWORKS[network])
    trainer = noisy_trainer(options)
    tested: list[dict[str, Tensor]] = []
    trainer.test = lambda cfg, model: (
        tested.append(numbers_of(model)) or MetaBINTrainer.test(cfg, model)
    )
    history = follow(trainer)
    expected = averages(history, 0.6)
    content = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    for name, value in content["model"].items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(value, history[-1][name])
    assert difference(content["average"]["model"], history[-1]) == ""
    assert content["average"]["updates"] == 10
    assert difference(content["model"], history[-1])
    assert difference(content["model"], tested[-1]) == ""
    assert difference(content["model"], numbers_of(trainer.evaluated)) == ""

    # What reads the file needs to know nothing of averages.
    path = str(tmp_path / "out" / "model_final.pth")
    alone = noisy_trainer([*options, "OUTPUT_DIR", str(tmp_path / "alone")]).cfg.clone()
    alone.defrost()
    alone.METABIN.AVERAGE.DECAY, alone.MODEL.WEIGHTS = 0.0, path
    read = trained_network(alone, "")
    assert difference(numbers_of(read), content["model"]) == ""
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    MetaBINTrainer.test(alone, read)
    assert json.loads((tmp_path / "alone" / "results.json").read_text()) == results


def test_without_a_decay_nothing_is_averaged(tmp_path: Path) -> None:
    trainer = MetaBINTrainer(config(tmp_path, decay=0.0))
    assert not any(isinstance(hook, WeightAverage) for hook in trainer._hooks)
    assert trainer.evaluated is trainer.model
    assert trainer.checkpointer.model is trainer.model
    assert "average" not in trainer.checkpointer.checkpointables


def test_a_training_starts_from_the_weights_of_another(tmp_path: Path) -> None:
    first = MetaBINTrainer(config(tmp_path, decay=0.0))
    values = numbers_of(first.model)
    torch.save({"model": values}, tmp_path / "first.pth")
    options = ["MODEL.WEIGHTS", str(tmp_path / "first.pth"), "METABIN.SEED", "8"]
    trainer = MetaBINTrainer(config(tmp_path, *options))
    assert difference(values, numbers_of(trainer.model))
    trainer.resume_or_load(resume=False)
    assert difference(values, numbers_of(trainer.model)) == ""
    assert difference(values, numbers_of(trainer.evaluated)) == ""


def test_precise_statistics_are_the_averages(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("fastreid.data.build._root", str(tmp_path))
    options = noisy_options(
        tmp_path,
        **AVERAGED,
        TEST__PRECISE_BN__ENABLED=True,
        TEST__PRECISE_BN__NUM_ITER=2,
        TEST__PRECISE_BN__DATASET="source0.csv",
        DATALOADER__SAMPLER_TRAIN="TrainingSampler",
        METABIN__IMS_PER_BATCH=6,
    )
    trainer = noisy_trainer(options)
    history = follow(trainer)
    content = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert difference(content["average"]["model"], history[-1]) == ""
    mean = "backbone.1.running_mean"
    usual = averages(history, 0.6)[mean]
    assert not torch.allclose(content["model"][mean].double(), usual, rtol=1e-3)


# --- resuming


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, Any]]:
    """Folder and options of a run, and the content of a checkpoint in its middle."""
    folder = tmp_path_factory.mktemp("run")
    options = noisy_options(folder, **AVERAGED, SOLVER__CHECKPOINT_KEEP=0, TEST__EVAL_PERIOD=0)
    noisy_trainer(options).train()
    content = torch.load(folder / "out" / "model_iter_0000004.pth", weights_only=True)
    return folder / "out", options, content


def resumed(
    finished: tuple[Path, list[str], dict[str, Any]], content: dict[str, Any], *more: str
) -> MetaBINTrainer:
    folder, options, _ = finished
    torch.save(content, folder / "other.pth")
    (folder / "last_checkpoint").write_text("other.pth")
    return noisy_trainer([*options, *more], resume=True)


def test_both_networks_go_on(finished: Any) -> None:
    content = finished[2]
    trainer = resumed(finished, content)
    assert difference(content["model"], numbers_of(trainer.evaluated)) == ""
    assert difference(content["average"]["model"], numbers_of(trainer.model)) == ""
    assert difference(content["model"], content["average"]["model"])


def test_a_checkpoint_of_a_version_without_averages_goes_on(finished: Any) -> None:
    content = copy.deepcopy(finished[2])
    del content["average"]
    lines = content["config"].splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip() == "AVERAGE:")
    del lines[start : start + 3]
    content["config"] = "\n".join(lines)
    trainer = resumed(finished, content)
    assert difference(content["model"], numbers_of(trainer.evaluated)) == ""
    assert difference(content["model"], numbers_of(trainer.model)) == ""


@pytest.mark.parametrize(
    "change",
    [("METABIN.AVERAGE.DECAY", "0."), ("METABIN.AVERAGE.OF", "gates")],
    ids=lambda change: change[0],
)
def test_other_averages_are_refused(finished: Any, change: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"{change[0]}: "):
        resumed(finished, finished[2], *change)


FIRST = "backbone.0.weight"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda average: {**average, "updates": -1},
        lambda average: {**average, "updates": "4"},
        lambda average: {"model": average["model"]},
        lambda average: {"updates": 4},
        lambda average: {**average, "model": 3},
        lambda average: {**average, "model": {}},
        lambda average: {**average, "model": {**average["model"], FIRST: "text"}},
        lambda average: {**average, "model": {**average["model"], FIRST: torch.ones(2)}},
        lambda _average: None,
        lambda _average: [],
    ],
)
def test_a_state_that_is_none_is_refused(finished: Any, spoil: Any) -> None:
    trainer = noisy_trainer(finished[1])
    before = numbers_of(trainer.model), numbers_of(trainer.evaluated)
    folder, _, content = finished
    torch.save({**content, "average": spoil(content["average"])}, folder / "other.pth")
    (folder / "last_checkpoint").write_text("other.pth")
    with pytest.raises(WeightsError, match="state of average does not fit this run"):
        trainer.resume_or_load(resume=True)
    assert difference(before, (numbers_of(trainer.model), numbers_of(trainer.evaluated))) == ""


# --- keys


def test_gates_of_a_network_without_gates_are_refused(tmp_path: Path) -> None:
    options = ["METABIN.AVERAGE.OF", "gates", "MODEL.META_ARCHITECTURE", "Baseline"]
    cfg = config(tmp_path, *options, "MODEL.BACKBONE.NORM", "BN", "METABIN.HOOKS", "()")
    check_config(cfg)
    with pytest.raises(ConfigError, match=r"^METABIN\.AVERAGE\.OF is 'gates', but .*; set"):
        MetaBINTrainer(cfg)
