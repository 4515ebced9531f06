from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.solver import build_optimizer
from fastreid.solver.build import get_default_optimizer_params
from fastreid.utils.events import EventStorage
from fastreid.utils.params import ContiguousParams


def sgd_config():
    cfg = get_cfg()
    cfg.SOLVER.OPT = "SGD"
    cfg.SOLVER.BASE_LR = 0.5
    cfg.SOLVER.MOMENTUM = 0.0
    cfg.SOLVER.WEIGHT_DECAY = cfg.SOLVER.WEIGHT_DECAY_BIAS = cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    return cfg


def step_twice(build, scaler: torch.amp.GradScaler | None = None) -> torch.Tensor:
    """The change of a weight by two steps of gradient 3 each, in fastreid's order of calls."""
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer, _ = build(sgd_config(), model)
    before = model.weight.detach().clone()
    for _ in range(2):
        loss = 3 * model(torch.ones(1, 2)).sum()
        optimizer.zero_grad()
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return model.weight.detach() - before


def test_a_step_moves_the_weights():
    torch.testing.assert_close(step_twice(build_optimizer), torch.full((1, 2), -3.0))


def test_a_scaled_step_moves_the_weights():
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    torch.testing.assert_close(step_twice(build_optimizer, scaler), torch.full((1, 2), -3.0))


def test_fastreid_itself_never_moves_a_weight():
    assert torch.equal(step_twice(inspect.unwrap(build_optimizer)), torch.zeros(1, 2))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_flat_buffer_keeps_its_gradient(set_to_none):
    model = torch.nn.Linear(2, 1)
    optimizer, params = build_optimizer(sgd_config(), model)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.zero_grad(set_to_none=set_to_none)
    assert isinstance(params, ContiguousParams)
    assert model.weight.grad is not None and not model.weight.grad.any()
    params.assert_buffer_is_valid()


def test_an_optimizer_without_the_buffer_is_left_alone():
    model = torch.nn.Linear(2, 1)
    optimizer, _ = build_optimizer(sgd_config(), model, contiguous=False)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.zero_grad()
    assert model.weight.grad is None


class Product(torch.nn.Module):
    """A network of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (batch * self.weight).sum()}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.NAdam])
def test_an_optimizer_of_ones_own_over_the_buffer_moves_the_weights(kind):
    model = Product()
    params = ContiguousParams(get_default_optimizer_params(model, base_lr=0.5, weight_decay=0.0))
    optimizer = kind(params.contiguous())
    trainer = SimpleTrainer(model, itertools.repeat(torch.full((2,), 3.0)), optimizer, params)
    trainer.iter = 0
    with EventStorage(0):
        for _ in range(2):
            trainer.run_step()
    assert (model.weight < -0.1).all()
    if kind is torch.optim.SGD:
        assert model.weight.tolist() == [-3, -3]
