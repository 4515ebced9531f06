"""MLDG through the real trainer: what an iteration does to the parameters, and what is refused."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metabin_plugin.engine import MetaBINTrainer, MLDGHook
from metabin_plugin.errors import ConfigError, DatasetError, NonFiniteError
from tests.distributed import small_backbone
from tests.engine.starting import started
from tests.engine.tiny_data import tiny_config

MLDG = [
    *("METABIN.HOOKS", '("MLDGHook",)'),
    *("MODEL.META_ARCHITECTURE", "Baseline"),
    *("MODEL.BACKBONE.NORM", "BN"),
    *("METABIN.INNER_LR.LOW", "0.1"),
]


def options(*extra: str) -> list[str]:
    return [*small_backbone.OPTIONS, *MLDG, *extra]


def iterate(trainer: MetaBINTrainer) -> None:
    """One iteration, as the training loop runs it."""
    hook = trainer.hook(MLDGHook)
    with trainer.storage:
        hook.before_step()
        trainer.run_step()
        hook.after_step()


def rows(batch: dict[str, Any], domains: list[int]) -> dict[str, Any]:
    """The images of some domains, found by their labels."""
    keep = torch.tensor([int(d) in domains for d in batch["domains"]])
    return {
        name: values[keep]
        if isinstance(values, Tensor)
        else [value for value, kept in zip(values, keep, strict=True) if kept]
        for name, values in batch.items()
    }


@pytest.mark.parametrize("norm", ["BN", "BIN"])
def test_an_iteration_is_one_sgd_step_on_both_gradients(tmp_path: Path, norm: str) -> None:
    """Against copies of the network that are moved and differentiated by hand, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        trainer = started(tiny_config(tmp_path, *options("MODEL.BACKBONE.NORM", norm)))
    finally:
        torch.set_default_dtype(torch.float32)
    network = trainer.model
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(0.6)
    before = copy.deepcopy(network)
    drawn = next(trainer.base_batches)
    trainer.base_batches = iter([drawn])
    iterate(trainer)
    hook = trainer.hook(MLDGHook)
    train, test = hook.split(0)
    batch = {**drawn, "images": drawn["images"].double()}

    with trainer.storage:
        at_theta = copy.deepcopy(before)
        sum(at_theta(rows(batch, train)).values()).backward()
        moved = copy.deepcopy(before)
        with torch.no_grad():
            for here, there in zip(moved.parameters(), at_theta.parameters(), strict=True):
                if there.requires_grad:
                    here -= hook.episodes.inner_lr(0) * there.grad
        sum(moved(rows(batch, test)).values()).backward()

    groups = {p: g for g in trainer.optimizer.param_groups for p in g["params"]}
    (lr,) = {group["lr"] for group in groups.values()}
    decay = trainer.cfg.SOLVER.WEIGHT_DECAY
    for (name, old), new, one, other in zip(
        before.named_parameters(),
        network.parameters(),
        at_theta.parameters(),
        moved.parameters(),
        strict=True,
    ):
        if not old.requires_grad:
            assert torch.equal(new, old), name
            continue
        decayed = 0.0 if name.endswith("gate") else decay
        expected = old - lr * (one.grad + other.grad + decayed * old)
        torch.testing.assert_close(new, expected, rtol=1e-9, atol=1e-12, msg=name)
        assert not torch.equal(new, old), name
    # Running statistics are those of the base step, on the meta-train domains.
    for name, value in at_theta.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    assert trainer.storage.histories()["mtest_loss_cls"].latest() > 0


@pytest.mark.parametrize(
    "extra",
    [
        ("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "1e9"),
        ("SOLVER.FREEZE_ITERS", "2", "MODEL.FREEZE_LAYERS", '["heads.weight"]'),
    ],
    ids=["clipping", "freezing"],
)
def test_the_meta_test_gradient_is_added_once(tmp_path: Path, extra: tuple[str, ...]) -> None:
    """Also after another optimizer of that kind was made, as a resume makes one."""
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    found = []
    for name, more in (("plain", ()), ("derived", extra)):
        (tmp_path / name).mkdir()
        trainer = started(tiny_config(tmp_path / name, *options(*more)))
        iterate(trainer)
        found.append(dict(trainer.model.named_parameters()))
    for name, value in found[0].items():
        if name != "heads.weight":
            assert torch.equal(found[1][name], value), name


def test_jointly_trained_gates_stay_in_range(tmp_path: Path) -> None:
    extra = ["MODEL.BACKBONE.NORM", "BIN", "SOLVER.BASE_LR", "3."]
    trainer = started(tiny_config(tmp_path, *options(*extra)))
    gates = [p for n, p in trainer.model.named_parameters() if n.endswith("gate")]
    iterate(trainer)
    iterate(trainer)
    assert all(0 <= gate.min() <= gate.max() <= 1 for gate in gates)
    assert any((gate < 1).any() for gate in gates)


def test_outside_an_iteration_the_network_is_as_it_was(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, *options()))
    iterate(trainer)
    copy.deepcopy(trainer.model)
    assert len(next(trainer.base_batches)["images"]) == 12
    trainer.model.eval()
    assert len(trainer.model({"images": torch.zeros(12, 3, 32, 16)})) == 12


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["METABIN.SECOND_ORDER", "True"], "METABIN.SECOND_ORDER"),
        (["METABIN.INNER_DIRECTION", "random"], "METABIN.INNER_DIRECTION is 'random'"),
        (["METABIN.HOOKS", '("MLDGHook", "MetaLearningHook")'], "choose one"),
        (["METABIN.NUM_META_TRAIN", "3"], "METABIN.NUM_META_TRAIN is 3 of 3"),
        (
            ["MODEL.META_ARCHITECTURE", "MetaBIN", "MODEL.BACKBONE.NORM", "BIN"],
            "keeps the gates from the base step",
        ),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, extra: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MetaBINTrainer(tiny_config(tmp_path, *options(*extra)))


def test_a_batch_that_is_not_balanced_is_refused(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, *options("DATALOADER.SAMPLER_TRAIN", "TrainingSampler"))
    trainer = started(cfg)
    with pytest.raises(DatasetError, match="DomainBalancedSampler"):
        iterate(trainer)


def test_a_meta_test_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, *options("METABIN.INNER_LR.HIGH", "1e30")))
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    with pytest.raises(NonFiniteError, match="meta-test") as caught:
        iterate(trainer)
    assert "meta-train domains" in str(caught.value)
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, before[name])


@pytest.mark.slow
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, *options())
    straight = MetaBINTrainer(cfg)
    straight.train()
    shutil.rmtree(tmp_path / "out")

    cfg = tiny_config(tmp_path, *options("SOLVER.MAX_EPOCH", "1"))
    MetaBINTrainer(cfg).train()
    resumed = MetaBINTrainer(tiny_config(tmp_path, *options()))
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    resumed.train()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
