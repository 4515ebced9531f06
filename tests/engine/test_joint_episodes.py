"""Gates without episode separation (Table 3): trained jointly, and meta-learned with all else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.losses import scatter_loss, shuffle_loss, triplet_loss
from tests.distributed import small_backbone
from tests.engine.starting import started
from tests.engine.tiny_data import tiny_config

# With this margin every triplet pulls.
MARGIN = 50.0
TOGETHER = [
    *("METABIN.EPISODE_SEPARATION", "False"),
    *("METABIN.INNER_LR.LOW", "0.1"),
    *("MODEL.LOSSES.TRI.MARGIN", str(MARGIN)),
]
JOINT_BIN = ["MODEL.META_ARCHITECTURE", "Baseline", "METABIN.HOOKS", "()"]


def trainer_with(tmp_path: Path, *options: str) -> tuple[MetaBINTrainer, dict[str, Any]]:
    """A trainer in float64 with gates inside their range, and the batch that it is to draw."""
    cfg = tiny_config(tmp_path, *small_backbone.OPTIONS, *options)
    torch.set_default_dtype(torch.float64)
    try:
        trainer = started(cfg)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for gate in gates_of(trainer.model).values():
            gate.uniform_(0.4, 0.6)
    batch = next(trainer.base_batches)
    batch["images"] = batch["images"].double()
    trainer.base_batches = iter([batch])
    return trainer, batch


def gates_of(network: nn.Module) -> dict[str, Tensor]:
    return {n: p for n, p in network.named_parameters() if n.endswith("gate")}


def features(network: nn.Module, images: Tensor) -> Tensor:
    pixels = (images - network.pixel_mean) / network.pixel_std
    return network.heads.pool_layer(network.backbone(pixels))[..., 0, 0]


def meta_train_loss(network: nn.Module, batch: dict[str, Any], domains: list[int]) -> Tensor:
    rows = torch.tensor([int(d) in domains for d in batch["domains"]])
    found = features(network, batch["images"][rows])
    labels = batch["targets"][rows], batch["domains"][rows]
    terms = scatter_loss(found, labels[1]), shuffle_loss(found, *labels)
    return terms[0] + terms[1] + triplet_loss(found, labels[0], MARGIN)


def meta_test_loss(network: nn.Module, batch: dict[str, Any], domains: list[int]) -> Tensor:
    rows = torch.tensor([int(d) in domains for d in batch["domains"]])
    return triplet_loss(features(network, batch["images"][rows]), batch["targets"][rows], MARGIN)


def gradients(network: nn.Module, loss: Tensor) -> list[Tensor]:
    parameters = [p.requires_grad_() for p in network.parameters()]
    return list(torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True))


def moved(network: nn.Module, step: float, by: list[Tensor]) -> nn.Module:
    """A copy of the network after a step against a gradient, its gates clipped."""
    result = copy.deepcopy(network)
    with torch.no_grad():
        for parameter, gradient in zip(result.parameters(), by, strict=True):
            parameter -= step * gradient
        for gate in gates_of(result).values():
            gate.clamp_(0, 1)
    return result


def close(actual: nn.Module, expected: nn.Module) -> None:
    wanted = dict(expected.named_parameters())
    for name, parameter in actual.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("inner_lr", [0.1, 20.0])
def test_a_meta_step_moves_all_parameters(tmp_path: Path, inner_lr: float) -> None:
    """Eq. 8-10 with all parameters in the place of rho, on copies of the network."""
    trainer, batch = trainer_with(tmp_path, *TOGETHER, "METABIN.INNER_LR.HIGH", str(inner_lr))
    hook = trainer.hook("MetaLearningHook")
    network = copy.deepcopy(trainer.model)
    hook.batches = iter([batch])
    with trainer.storage:
        hook.after_step()

    train, test = hook.split(0)
    beta = hook.episodes.inner_lr(0)
    inner = moved(network, beta, gradients(network, meta_train_loss(network, batch, train)))
    outer = gradients(inner, meta_test_loss(inner, batch, test))
    close(trainer.model, moved(network, trainer.cfg.METABIN.OUTER_LR, outer))
    changed = {
        name
        for (name, new), old in zip(
            trainer.model.named_parameters(), network.parameters(), strict=True
        )
        if not torch.equal(new, old)
    }
    # The losses are of features: neither the BNNeck nor the classifier has a part in them.
    assert changed == {n for n, _ in network.named_parameters() if n.startswith("backbone.")}


def test_the_base_optimizer_and_its_buffers_go_on_after_a_meta_step(tmp_path: Path) -> None:
    trainer, batch = trainer_with(tmp_path, *TOGETHER)
    trainer.hook("MetaLearningHook").batches = iter([batch, batch])
    trainer.base_batches = iter([batch, batch])
    for iteration in range(2):
        trainer.iter = iteration
        before = copy.deepcopy(dict(trainer.model.named_parameters()))
        with trainer.storage:
            trainer.run_step()
        trained = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
        assert set(gates_of(trainer.model)) <= trained
        for name, parameter in trainer.model.named_parameters():
            assert torch.equal(parameter, before[name]) != (name in trained), name
        with trainer.storage:
            trainer.hook("MetaLearningHook").after_step()


@pytest.mark.parametrize("base_lr", [0.01, 100.0])
def test_jointly_trained_gates_take_sgd_steps_without_weight_decay(
    tmp_path: Path, base_lr: float
) -> None:
    """BIN as Nam and Kim train it: gates are parameters like others, clipped after each step."""
    trainer, batch = trainer_with(tmp_path, *JOINT_BIN, "SOLVER.BASE_LR", str(base_lr))
    network = copy.deepcopy(trainer.model)
    with trainer.storage:
        losses = network(batch)
        trainer.run_step()
    (lr,) = {group["lr"] for group in trainer.optimizer.param_groups}
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    parameters = dict(network.named_parameters())
    slopes = torch.autograd.grad(sum(losses.values()), [parameters[name] for name in names])
    decay = trainer.cfg.SOLVER.WEIGHT_DECAY
    now = dict(trainer.model.named_parameters())
    for name, slope in zip(names, slopes, strict=True):
        old = parameters[name].detach()
        expected = old - lr * (slope + (0 if name.endswith("gate") else decay * old))
        if name.endswith("gate"):
            expected = expected.clamp(0, 1)
        torch.testing.assert_close(now[name].detach(), expected, rtol=1e-9, atol=1e-12, msg=name)
