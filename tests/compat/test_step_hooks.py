"""Hooks of an optimizer whose class fastreid derives from PyTorch's, to clip or to freeze."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.solver import build_optimizer

CLIP = {"SOLVER.CLIP_GRADIENTS.ENABLED": True}
FREEZE = {"MODEL.FREEZE_LAYERS": ["bias"], "SOLVER.FREEZE_ITERS": 100}


def config(changes: dict[str, Any], kind: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list([part for pair in changes.items() for part in pair])
    cfg.SOLVER.OPT = kind
    return cfg


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("changes", [{}, CLIP, FREEZE, {**CLIP, **FREEZE}])
def test_hooks_of_a_step_run_once(changes: dict[str, Any], kind: str) -> None:
    """Also after a plain optimizer was made, with which PyTorch puts hooks into its class."""
    getattr(torch.optim, kind)([torch.nn.Parameter(torch.zeros(1))])
    model = torch.nn.Linear(2, 1)
    optimizer, _ = build_optimizer(config(changes, kind), model)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert seen == ["before", "after"]


def test_gradients_are_clipped_once() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    cfg = config({**CLIP, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.5}, "SGD")
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY = 1.0, 0.0, 0.0
    optimizer, _ = build_optimizer(cfg, model)
    before = model.weight.detach().clone()
    model(torch.tensor([[3.0, 0.25]])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - torch.tensor([[0.5, 0.25]]))
