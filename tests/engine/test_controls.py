"""Controls of the meta-learning: other inner and outer steps, warmed up and frozen gates."""

from __future__ import annotations

import itertools
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from metabin_plugin.engine import MetaBINTrainer, check_config, meta_learning
from metabin_plugin.errors import ConfigError
from tests.distributed import small_backbone
from tests.engine.starting import started
from tests.engine.tiny_data import tiny_config

WARMUP = ["SOLVER.WARMUP_ITERS", "4", "SOLVER.WARMUP_FACTOR", "0.25"]


def trainer_with(tmp_path: Path, *options: str) -> MetaBINTrainer:
    """A trainer of a small network whose gates are away from their bounds."""
    cfg = tiny_config(tmp_path, "SOLVER.MAX_EPOCH", "9", *small_backbone.OPTIONS, *options)
    trainer = started(cfg)
    with torch.no_grad():
        for gate in trainer.model.gates.values():
            gate.fill_(0.5)
    # Distances of an untrained network differ by less than the margin of the triplet loss.
    trainer.model.loss_kwargs["tri"]["margin"] = 10.0
    return trainer


def steps_of(trainer: MetaBINTrainer, iterations: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run iterations; what their meta steps computed, and the gates before and after each."""
    steps: list[Any] = []
    gates: list[list[torch.Tensor]] = []
    meta_step = meta_learning.meta_step

    def keeping(*arguments: Any, **named: Any) -> Any:
        steps.append(meta_step(*arguments, **named))
        return steps[-1]

    def keep_gates() -> None:
        gates.append([gate.detach().clone() for gate in trainer.model.gates.values()])

    monkeypatch.setattr(meta_learning, "meta_step", keeping)
    with trainer.storage:
        trainer.before_train()
        keep_gates()
        for trainer.iter in range(iterations):
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
            keep_gates()
    return steps, gates


def lengths(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.norm() for tensor in tensors.values()])


@pytest.mark.parametrize("direction", ["gradient", "random"])
def test_the_inner_step_goes_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    beta = ["METABIN.INNER_LR.LOW", "0.01", "METABIN.INNER_LR.HIGH", "0.01"]
    trainer = trainer_with(tmp_path, "METABIN.INNER_DIRECTION", direction, *beta)
    steps, gates = steps_of(trainer, 2, monkeypatch)
    ways = []
    for step, before in zip(steps, gates, strict=False):
        moved = zip(step.inner_parameters.items(), before, strict=True)
        way = {name: (old - new) / 0.01 for (name, new), old in moved}
        torch.testing.assert_close(
            lengths(way), lengths(step.inner_gradients), rtol=1e-3, atol=1e-5
        )
        is_gradient = all(
            torch.allclose(way[name], gradient, rtol=1e-3, atol=1e-4)
            for name, gradient in step.inner_gradients.items()
        )
        assert is_gradient == (direction == "gradient")
        ways.append(torch.cat([w.flatten() / w.norm() for w in way.values()]))
    assert not torch.allclose(*ways)


def test_without_an_inner_step_gates_follow_the_gradient_at_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = ["METABIN.INNER_LR.LOW", "0.", "METABIN.INNER_LR.HIGH", "0."]
    found = {}
    for loss in ("meta-test", "sum"):
        trainer = trainer_with(tmp_path, "METABIN.OUTER_LOSS", loss, *still)
        (step, *_), (before, after) = steps_of(trainer, 1, monkeypatch)
        assert all(map(torch.equal, step.inner_parameters.values(), before))
        for name, old, new in zip(step.outer_gradients, before, after, strict=True):
            torch.testing.assert_close(new, (old - 0.1 * step.outer_gradients[name]).clamp(0, 1))
        found[loss] = step
    # Batches, split and weights are the same: the seed is.
    for name, gradient in found["sum"].outer_gradients.items():
        added = gradient - found["meta-test"].outer_gradients[name]
        inner = found["meta-test"].inner_gradients[name]
        torch.testing.assert_close(added, inner, rtol=1e-4, atol=1e-5)
        assert inner.abs().max() > 1e-4


def test_gates_are_frozen_after_so_many_iterations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_with(tmp_path, "METABIN.FREEZE_AFTER", "2")
    drawn: list[Any] = []
    batches = trainer.base_batches
    trainer.base_batches = (drawn.append(0) or batch for batch in batches)
    steps, gates = steps_of(trainer, 4, monkeypatch)
    moves = [not all(map(torch.equal, *pair)) for pair in pairwise(gates)]
    assert moves == [True, True, False, False]
    assert len(steps) == 2
    # From then on the base step alone draws.
    assert len(drawn) == 4 + 2


@pytest.mark.parametrize("method", ["linear", "constant", "exp"])
def test_the_outer_step_size_is_warmed_up_with_the_base_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    options = [*WARMUP, "SOLVER.WARMUP_METHOD", method, "METABIN.OUTER_LR_WARMUP", "True"]
    trainer = trainer_with(tmp_path, *options, "METABIN.OUTER_LR", "0.001")
    rates: list[float] = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: rates.append(trainer.optimizer.param_groups[0]["lr"])
    )
    steps, gates = steps_of(trainer, 6, monkeypatch)
    base = trainer.cfg.SOLVER.BASE_LR
    assert rates[0] == pytest.approx(0.25 * base)
    assert rates[4:] == pytest.approx([base, base])
    for step, rate, (before, after) in zip(steps, rates, pairwise(gates), strict=True):
        for gradient, old, new in zip(step.outer_gradients.values(), before, after, strict=True):
            moved = old - 0.001 * rate / base * gradient
            torch.testing.assert_close(new, moved.clamp(0, 1), rtol=1e-6, atol=1e-7)
    assert trainer.storage.histories()["outer_lr"].latest() == pytest.approx(0.001)


def test_the_step_size_does_not_decay(tmp_path: Path) -> None:
    trainer = trainer_with(tmp_path, *WARMUP, "METABIN.OUTER_LR_WARMUP", "True")
    hook = trainer.hook("MetaLearningHook")
    for _ in range(4):
        trainer.optimizer.step()
        trainer.scheduler["warmup_sched"].step()
    for group in trainer.optimizer.param_groups:
        group["lr"] *= 0.1
    assert hook.outer_lr() == trainer.cfg.METABIN.OUTER_LR


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["METABIN.INNER_DIRECTION", "random", "METABIN.SECOND_ORDER", "True"],
            "METABIN.INNER_DIRECTION is 'random', whose step has no second-order term",
        ),
        (
            ["METABIN.FREEZE_AFTER", "9", "METABIN.EPISODE_SEPARATION", "False"],
            "METABIN.FREEZE_AFTER is 9, but with METABIN.EPISODE_SEPARATION False",
        ),
        (
            ["METABIN.OUTER_LR_WARMUP", "True", "SOLVER.WARMUP_ITERS", "0"],
            "METABIN.OUTER_LR_WARMUP is True, but SOLVER.WARMUP_ITERS is 0",
        ),
        *(
            (
                ["MODEL.LOSSES.CE.EPSILON", "-1.0", f"METABIN.{side}", '("CrossEntropyLoss",)'],
                f"METABIN.{side} has CrossEntropyLoss, which has no adaptive smoothing",
            )
            for side in ("META_TRAIN_LOSSES", "META_TEST_LOSSES")
        ),
        *(
            (
                ["MODEL.LOSSES.TRI.MARGIN", "0.0", f"METABIN.{other}", '("ScatterLoss",)'],
                f"METABIN.{side} has TripletLoss, which has no soft margin",
            )
            for side, other in itertools.permutations(("META_TRAIN_LOSSES", "META_TEST_LOSSES"))
        ),
    ],
)
def test_what_cannot_be_together_is_refused(
    tmp_path: Path, options: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config(tiny_config(tmp_path, *options))
    assert str(caught.value).startswith(sentence)
    assert "; set" in str(caught.value)
