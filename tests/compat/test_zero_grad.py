from __future__ import annotations

import inspect

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.solver import build_optimizer
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
