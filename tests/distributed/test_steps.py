"""Whole iterations on 1, 2 and 4 ranks: the same numbers with SYNC_STATS, the same gates always."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fastreid.config import CfgNode
from torch import Tensor

from metabin_plugin.engine import MetaBINTrainer, meta_learning
from tests.campaigns import EXHAUSTIVE
from tests.distributed import small_backbone
from tests.distributed.processes import run_ranks
from tests.engine.tiny_data import tiny_config

ITERATIONS = 3
# 4 identities of each of 3 domains, so that each of 4 ranks gets one of each.
BATCH = ["SOLVER.IMS_PER_BATCH", "24", "METABIN.INNER_LR.LOW", "0.05", *small_backbone.OPTIONS]
AUGMENTED = ["INPUT.FLIP.ENABLED", "True", "INPUT.PADDING.ENABLED", "True"]
LOSSES = '("ScatterLoss", "ShuffleLoss", "TripletLoss", "CrossEntropyLoss")'
ALL_TERMS = ["METABIN.META_TRAIN_LOSSES", LOSSES, "METABIN.META_TEST_LOSSES", LOSSES]
VARIANTS = {
    "first-order": [],
    "second-order": ["METABIN.SECOND_ORDER", "True", *ALL_TERMS],
    "without episode separation": ["METABIN.EPISODE_SEPARATION", "False", *ALL_TERMS],
    "random inner step": [
        *("METABIN.INNER_DIRECTION", "random", "METABIN.OUTER_LOSS", "sum"),
        *("METABIN.OUTER_LR_WARMUP", "True"),
    ],
    "averaged": ["METABIN.AVERAGE.DECAY", "0.3"],
    "BAU": ["METABIN.BASE_LOSSES", '("Alignment", "Uniformity", "DomainUniformity")'],
    # Without cross-entropy the classifier, and of triplets the BNNeck too, gets no gradient.
    "triplets alone": ["MODEL.LOSSES.NAME", '("TripletLoss",)'],
    "BAU alone": [
        *("MODEL.LOSSES.NAME", "()"),
        *("METABIN.BASE_LOSSES", '("Alignment", "Uniformity", "DomainUniformity")'),
    ],
    "MLDG": ["METABIN.EPISODE_SEPARATION", "False", "METABIN.HOOKS", '("MLDGHook",)'],
}


def iterations(rank: int, cfg: CfgNode, dtype: torch.dtype) -> dict[str, Any]:
    """Three iterations; everything that they computed, by name."""
    torch.set_default_dtype(dtype)
    trainer = MetaBINTrainer(cfg)
    model = trainer.network
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.copy_(0.2 + 0.6 * torch.rand(gate.shape, generator=generator))
    seen: dict[str, Any] = {}
    real_step = meta_learning.meta_step

    def step(*args: Any, **kwargs: Any) -> Any:
        result = real_step(*args, **kwargs)
        for kind in ("inner_gradients", "inner_parameters", "outer_gradients"):
            keep(f"it{trainer.iter} {kind}", getattr(result, kind))
        return result

    def keep(prefix: str, values: dict[str, Tensor]) -> None:
        seen.update((f"{prefix} {name}", value.detach().clone()) for name, value in values.items())

    def keep_gradients(*_: Any) -> None:
        trained = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        keep(f"it{trainer.iter} base gradient", trained)

    trainer.optimizer.register_step_pre_hook(keep_gradients)

    def keep_states() -> None:
        keep(f"it{trainer.iter} state", model.state_dict())
        keep(f"it{trainer.iter} memory", dict(model.base_losses.named_buffers()))
        if cfg.METABIN.AVERAGE.DECAY:
            keep(f"it{trainer.iter} average", trainer.evaluated.state_dict())

    with mock.patch.object(meta_learning, "meta_step", step):
        run(trainer, keep_states)
    for number, state in trainer.optimizer.state_dict()["state"].items():
        keep("momentum", {str(number): state["momentum_buffer"]})
    return seen


def run(trainer: MetaBINTrainer, after_iteration: Any) -> None:
    from fastreid.utils.events import EventStorage

    trainer.start_iter = 0
    with EventStorage(0) as trainer.storage:
        trainer.before_train()
        trainer.epoch = 0
        for trainer.iter in range(ITERATIONS):
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
            after_iteration()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_ranks_equal_one_process_with_the_same_global_batch(tmp_path: Path, variant: str) -> None:
    options = ["METABIN.SYNC_STATS", "True", *AUGMENTED, *VARIANTS[variant]]
    cfg = tiny_config(tmp_path, *BATCH, *options)
    (alone,) = run_ranks(tmp_path / "1", 1, iterations, cfg, torch.float64)
    for size in (2, 4):
        for rank in run_ranks(tmp_path / str(size), size, iterations, cfg, torch.float64):
            assert rank.keys() == alone.keys()
            for name, value in alone.items():
                torch.testing.assert_close(
                    rank[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
                )


def is_shared(name: str) -> bool:
    return "running_" not in name


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_without_synchronization_ranks_share_all_but_their_statistics(
    tmp_path: Path, size: int
) -> None:
    cfg = tiny_config(tmp_path, *BATCH)
    first, *others = run_ranks(tmp_path / "run", size, iterations, cfg, torch.float32)
    assert any(name.endswith(".gate") for name in first)
    for other in others:
        for name, value in first.items():
            if is_shared(name):
                assert torch.equal(value, other[name]), name
        assert not torch.equal(
            first["it2 state backbone.1.running_mean"],
            other["it2 state backbone.1.running_mean"],
        )


def teacher_and_student(_rank: int, cfg: CfgNode) -> list[dict[str, Tensor]]:
    """Values of a Distiller's momentum teacher, and of its student."""
    trainer = MetaBINTrainer(cfg)
    trainer.resume_or_load(False)
    student = trainer.network
    return [dict(network.named_parameters()) for network in (student.model_ts[0], student)]


def test_ranks_have_one_momentum_teacher(tmp_path: Path) -> None:
    distiller = ["MODEL.META_ARCHITECTURE", "Distiller", "KD.EMA.ENABLED", "True"]
    cfg = tiny_config(tmp_path, *BATCH, *distiller, "METABIN.HOOKS", "()")
    first, second = run_ranks(tmp_path / "run", 2, teacher_and_student, cfg)
    for name, value in first[0].items():
        for network in (first[1], *second):
            assert torch.equal(network[name], value), name


@pytest.mark.slow
def test_what_each_rank_draws_goes_into_one_memory(tmp_path: Path) -> None:
    losses = ["METABIN.BASE_LOSSES", '("InterleavedMemory",)']
    layers = ["METABIN.INTERLEAVED_MEMORY.LAYERS", '("2",)']
    cfg = tiny_config(tmp_path, *BATCH, *losses, *layers)
    first, other = run_ranks(tmp_path / "run", 2, iterations, cfg, torch.float32)
    names = [name for name in first if " memory " in name]
    assert len(names) == 2 * ITERATIONS
    for name in names:
        assert torch.equal(first[name], other[name]), name
    known = first["it2 memory InterleavedMemory.memory.domains"]
    # Of 12 identities either rank has seen a half of each batch.
    assert (known >= 0).sum() > 6


def traced_iterations(rank: int, cfg: CfgNode, dtype: torch.dtype) -> dict[str, Any]:
    """As :func:`iterations`, the backbone in graphs of operators that no compiler turns into code.

    What ranks exchange is in the graphs or breaks them; of the code that is made of a graph one
    process shows as much.
    """
    traced = functools.partial(torch.compile, backend="aot_eager")
    with mock.patch.object(torch, "compile", traced):
        seen = iterations(rank, cfg, dtype)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    return seen


@pytest.mark.slow
def test_a_compiled_backbone_computes_the_same_on_several_ranks(tmp_path: Path) -> None:
    options = [*BATCH, "METABIN.SYNC_STATS", "True", "METABIN.COMPILE"]
    compiling = iterations if EXHAUSTIVE else traced_iterations
    plain, compiled = (
        run_ranks(tmp_path / word, 2, work, tiny_config(tmp_path, *options, word), torch.float64)
        for word, work in (("False", iterations), ("True", compiling))
    )
    for one, other in zip(plain, compiled, strict=True):
        assert list(one) == list(other)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
