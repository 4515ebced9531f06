"""Which way the meta-train losses move the gates, as the log has it during a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metabin_plugin.engine import MetaBINTrainer, meta_learning
from metabin_plugin.meta import sign_shares, sign_shares_by_loss
from tests.distributed import small_backbone
from tests.engine.noisy_run import noisy_options, noisy_trainer
from tests.engine.starting import started
from tests.engine.test_meta_cost import counted
from tests.engine.tiny_data import tiny_config

TERMS = {"ScatterLoss": "scatter", "ShuffleLoss": "shuffle", "TripletLoss": "triplet"}


def trainer_in_a_run(folder: Path, *options: str) -> MetaBINTrainer:
    """Before its first iteration, gates away from their bounds."""
    trainer = started(tiny_config(folder, *small_backbone.OPTIONS, *options))
    with torch.no_grad():
        for gate in trainer.model.gates.values():
            gate.fill_(0.5)
    # Distances of an untrained network differ by less than the margin of the triplet loss.
    trainer.model.loss_kwargs["tri"]["margin"] = 10.0
    return trainer


def logged(trainer: MetaBINTrainer, name: str) -> tuple[float, float]:
    latest = trainer.storage.latest()
    return tuple(latest[f"inner_gradient_{sign}/{name}"][0] for sign in ("positive", "negative"))


def shares(gradients: list[Tensor]) -> tuple[float, float]:
    values = [value for gradient in gradients for value in gradient.flatten().tolist()]
    positive, negative = sum(v > 0 for v in values), sum(v < 0 for v in values)
    return positive / len(values), negative / len(values)


def test_shares_are_of_all_gates_and_zeros_count_to_neither() -> None:
    gradients = {"a": torch.tensor([1.0, -2.0, 0.0]), "b": torch.tensor([3.0])}
    assert sign_shares(gradients).tolist() == [0.5, 0.25]


@pytest.mark.parametrize("separation", ["True", "False"])
def test_the_sum_of_the_losses_is_logged_in_every_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separation: str
) -> None:
    steps: list[Any] = []
    meta_step = meta_learning.meta_step

    def keeping(*arguments: Any, **named: Any) -> Any:
        steps.append(meta_step(*arguments, **named))
        return steps[-1]

    monkeypatch.setattr(meta_learning, "meta_step", keeping)
    trainer = trainer_in_a_run(tmp_path, "METABIN.EPISODE_SEPARATION", separation)
    with trainer.storage:
        trainer.hook("MetaLearningHook").after_step()
    gradients = [g for name, g in steps[0].inner_gradients.items() if name.endswith("gate")]
    assert len(gradients) == 3
    positive, negative = logged(trainer, "all")
    assert (positive, negative) == pytest.approx(shares(gradients))
    assert 0 < positive < 1
    assert not [n for n in trainer.storage.histories() if n.endswith("/scatter")]


@pytest.mark.parametrize("scale", [1.0, 2.0**60])
def test_each_loss_is_differentiated_alone_at_the_gates_before_the_update(
    tmp_path: Path, scale: float
) -> None:
    # After so large an update the gradients are others.
    options = ["METABIN.GRADIENT_SIGNS_PERIOD", "1", "METABIN.OUTER_LR", "1e4"]
    trainer = trainer_in_a_run(tmp_path, *options)
    hook = trainer.hook("MetaLearningHook")
    if scale != 1:
        hook.grad_scaler = meta_learning.LossScaler("cpu", init_scale=scale)
    batch = next(trainer.base_batches)
    hook.batches = iter([batch])
    tensors = {name: batch[name] for name in ("images", "targets", "domains")}
    tensors["images"] = trainer.model.preprocess_image(tensors)
    train, _ = hook.episodes.select(tensors, *hook.split(0))
    leaves = {n: g.detach().clone().requires_grad_() for n, g in trainer.model.gates.items()}
    losses = trainer.model.meta_losses(tuple(TERMS), train, leaves)
    expected = {
        TERMS[name]: shares(
            list(torch.autograd.grad(loss, list(leaves.values()), retain_graph=True))
        )
        for name, loss in losses.items()
    }
    with trainer.storage:
        hook.after_step()
    for name, pair in expected.items():
        # A gradient that is nearly zero may round to the other side.
        assert logged(trainer, name) == pytest.approx(pair, abs=1.01 / 48), name
    assert len(set(expected.values())) == 3
    assert any((gate != 0.5).any() for gate in trainer.model.gates.values())


def test_losses_are_measured_when_it_is_their_turn_with_one_more_reading(tmp_path: Path) -> None:
    trainer = trainer_in_a_run(tmp_path, "METABIN.GRADIENT_SIGNS_PERIOD", "3")
    reads = []
    once = 2 * len(trainer.model.gates) + 4 + 2 + 4
    with trainer.storage:
        for iteration in range(6):
            trainer.iter = trainer.storage.iter = iteration
            with counted() as (_, read):
                trainer.hook("MetaLearningHook").after_step()
            reads.append(read)
    assert reads == [[once], [once], [once, 6]] * 2
    history = trainer.storage.history("inner_gradient_positive/scatter").values()
    assert [iteration for _, iteration in history] == [2, 5]


def test_gradients_are_averaged_over_the_processes() -> None:
    calls: list[dict[str, Tensor]] = []

    def average(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        calls.append(gradients)
        return {name: -gradient for name, gradient in gradients.items()}

    gates = {"gate": torch.tensor([0.5, 0.25, 0.75, 1.0])}

    def losses(names: tuple[str, ...], at: dict[str, Tensor]) -> dict[str, Tensor]:
        slopes = {"up": torch.tensor([1.0, 1, 1, 1]), "down": torch.tensor([-1.0, 0, 0, 0])}
        return {name: (slopes[name] * at["gate"]).sum() for name in names}

    found = sign_shares_by_loss(["up", "down"], losses, gates, 1.0, average)
    assert found == {"up": [0.0, 1.0], "down": [0.25, 0.0]}
    assert len(calls) == 2


def test_measuring_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    states = []
    for period in (0, 1):
        options = noisy_options(
            tmp_path,
            METABIN__GRADIENT_SIGNS_PERIOD=period,
            SOLVER__MAX_EPOCH=1,
            TEST__EVAL_PERIOD=0,
            OUTPUT_DIR=tmp_path / str(period),
        )
        noisy_trainer(options).train()
        file = torch.load(tmp_path / str(period) / "model_final.pth", weights_only=True)
        states.append(file["model"])
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
