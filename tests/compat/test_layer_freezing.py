from __future__ import annotations

import torch
from fastreid.solver.build import maybe_add_freeze_layer
from yacs.config import CfgNode

from metabin_plugin.compat.training import count_frozen_iterations

CFG = CfgNode({"MODEL": {"FREEZE_LAYERS": ["a"]}, "SOLVER": {"FREEZE_ITERS": 3}})


def step(optimizer, weights):
    for weight in weights:
        weight.grad = torch.ones(())
    optimizer.step()
    return [weight.item() for weight in weights]


def build():
    weights = [torch.zeros((), requires_grad=True) for _ in range(2)]
    groups = [
        {"freeze_status": status, "params": [weight]}
        for status, weight in zip(("freeze", "normal"), weights, strict=True)
    ]
    return maybe_add_freeze_layer(CFG, torch.optim.SGD)(groups, lr=1.0), weights


def test_layers_are_frozen_for_so_many_steps():
    optimizer, weights = build()
    assert [step(optimizer, weights) for _ in range(5)] == [
        [0, -1],
        [0, -2],
        [0, -3],
        [-1, -4],
        [-2, -5],
    ]
    assert weights[0].grad == 1


def test_a_resumed_run_goes_on_counting():
    optimizer, weights = build()
    step(optimizer, weights)
    step(optimizer, weights)
    resumed, others = build()
    resumed.load_state_dict(optimizer.state_dict())
    assert [step(resumed, others) for _ in range(2)] == [[0, -1], [-1, -2]]


def test_iterations_are_counted_however_many_steps_they_have():
    optimizer, weights = build()
    # Iteration 1 has no step, as where a gradient overflows under a loss scale.
    for iteration in (0, 0, 0, 0, 2):
        count_frozen_iterations(optimizer, iteration)
        step(optimizer, weights)
    assert weights[0].item() == 0
    count_frozen_iterations(optimizer, 3)
    assert step(optimizer, weights) == [-1, -6]


def test_other_optimizers_are_not_counted():
    optimizer = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=1.0)
    before = optimizer.state_dict()
    count_frozen_iterations(optimizer, 3)
    assert optimizer.state_dict() == before
