from __future__ import annotations

from types import SimpleNamespace

import torch
from fastreid.engine.hooks import AutogradProfiler


def test_the_profiler_hook_writes_a_trace_of_the_chosen_iteration(tmp_path):
    hook = AutogradProfiler(lambda trainer: trainer.iter == 1, str(tmp_path))
    hook.trainer = SimpleNamespace(iter=0)
    for hook.trainer.iter in range(3):
        hook.before_step()
        torch.ones(2).sum()
        hook.after_step()
    assert [path.name for path in tmp_path.iterdir()] == ["profiler-trace-iter1.json"]
