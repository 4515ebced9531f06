"""What a meta step computes and when it waits for the device, counted and not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from metabin_plugin import losses
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import DatasetError
from metabin_plugin.losses import pairwise_distance
from metabin_plugin.modeling import meta_arch
from tests.distributed import small_backbone
from tests.engine.starting import started
from tests.engine.tiny_data import tiny_config

# Operators whose result the program waits for, or whose shape depends on values.
WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique")
ALL_LOSSES = '("ScatterLoss", "ShuffleLoss", "TripletLoss", "CrossEntropyLoss")'
CLASSIFYING = ["METABIN.META_TRAIN_LOSSES", ALL_LOSSES, "METABIN.META_TEST_LOSSES", ALL_LOSSES]


class Operators(TorchDispatchMode):
    """Counts the operators that run, and keeps the arguments of some."""

    def __init__(self, kept: str = "") -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.calls: list[tuple[Any, ...]] = []
        self._kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] += 1
        if name == self._kept:
            self.calls.append(args)
        return func(*args, **(kwargs or {}))


def trained(tmp_path: Path, *options: str) -> MetaBINTrainer:
    """A trainer of a small network after its first iteration, gates away from their bounds."""
    trainer = started(tiny_config(tmp_path, *small_backbone.OPTIONS, *options))
    with torch.no_grad():
        for gate in trainer.model.gates.values():
            gate.fill_(0.5)
    with trainer.storage:
        trainer.run_step()
        trainer.hook("MetaLearningHook").after_step()
    trainer.iter = 1
    return trainer


@contextmanager
def counted(kept: str = "") -> Iterator[tuple[Operators, list[int]]]:
    """Count operators and the numbers that each ``tolist`` of a tensor reads."""
    read: list[int] = []
    with pytest.MonkeyPatch.context() as patch, Operators(kept) as operators:
        tolist = Tensor.tolist

        def counting(tensor: Tensor) -> Any:
            read.append(tensor.numel())
            return tolist(tensor)

        patch.setattr(Tensor, "tolist", counting)
        yield operators, read


@pytest.mark.parametrize("options", [[], CLASSIFYING], ids=["paper", "all losses"])
@pytest.mark.parametrize("order", ["False", "True"])
def test_a_meta_step_reads_from_the_device_once(
    tmp_path: Path, options: list[str], order: str
) -> None:
    trainer = trained(tmp_path, "METABIN.SECOND_ORDER", order, *options)
    terms = 8 if options else 4
    with trainer.storage, counted() as (operators, read):
        trainer.hook("MetaLearningHook").after_step()
    # How large losses and gradients of both stages are, the gradient's signs, and all losses.
    gates = len(trainer.model.gates)
    assert read == [2 * gates + terms + 2 + terms]
    assert {name: operators.counts[name] for name in WAITING if operators.counts[name]} == {}
    history = trainer.storage.histories()
    names = [name for name in history if name.startswith(("mtrain", "mtest"))]
    assert len(names) == terms
    assert all(isinstance(history[name].latest(), float) for name in names)


def test_the_check_of_a_base_step_waits_no_more_than_the_log_does(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    with trainer.storage, counted() as (plugins, read):
        trainer.run_step()
    # Two losses, and the sum of all gradients.
    assert read == [3]
    with trainer.storage, counted() as (fastreids, _):
        trainer._trainer.run_step()
    assert [plugins.counts[name] for name in WAITING] == [fastreids.counts[n] for n in WAITING]


def test_no_weight_gets_a_gradient(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    with trainer.storage, counted("convolution_backward") as (operators, _):
        trainer.hook("MetaLearningHook").after_step()
    masks = [call[-1] for call in operators.calls]
    # For each side the convolutions behind a gate, all but the first; towards the input alone.
    assert masks == [[True, False, False]] * 4
    with trainer.storage, counted("convolution_backward") as (operators, _):
        trainer.run_step()
    assert [call[-1][1] for call in operators.calls] == [True] * 3


@pytest.mark.parametrize("options", [[], CLASSIFYING], ids=["paper", "all losses"])
def test_each_part_runs_once_for_each_side(tmp_path: Path, options: list[str]) -> None:
    trainer = trained(tmp_path, *options)
    heads, rows = trainer.model.heads, []
    runs: Counter[nn.Module] = Counter()
    parts = (trainer.model.backbone, heads.pool_layer, heads.bottleneck, heads.cls_layer)
    for part in parts:
        part.register_forward_hook(lambda module, *_: runs.update([module]))
    trainer.model.backbone.register_forward_hook(lambda _m, inputs, _o: rows.append(len(inputs[0])))
    with trainer.storage:
        trainer.hook("MetaLearningHook").after_step()
    classified = 2 if options else 0
    assert [runs[part] for part in parts] == [2, 2, classified, classified]
    assert rows == [8, 4]
    assert not heads.pool_layer._forward_hooks or len(heads.pool_layer._forward_hooks) == 1


def test_distances_are_computed_once_for_both_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trained(tmp_path)
    seen: list[Tensor] = []

    def watching(features: Tensor) -> Tensor:
        seen.append(features)
        return pairwise_distance(features)

    for module in (meta_arch, losses):
        monkeypatch.setattr(module, "pairwise_distance", watching)
    with trainer.storage:
        trainer.hook("MetaLearningHook").after_step()
    assert [len(features) for features in seen] == [8, 4]


def test_running_statistics_are_not_computed(tmp_path: Path) -> None:
    trainer = trained(tmp_path, *CLASSIFYING)
    norms = [m for m in trainer.model.modules() if isinstance(m, nn.BatchNorm2d)]
    updating: list[bool] = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda m, _: updating.append(m.track_running_stats))
    with trainer.storage, counted("native_batch_norm") as (operators, _):
        trainer.hook("MetaLearningHook").after_step()
    assert updating == [False] * 2 * len(norms)
    # The BNNeck is torch's own: it has no running statistics to update.
    necks = [call for call in operators.calls if call[0].shape[2:] == (1, 1)]
    assert [call[3:5] for call in necks] == [(None, None)] * 2
    updating.clear()
    with trainer.storage:
        trainer.run_step()
    assert updating == [True] * len(norms)


def test_a_batch_in_another_order_is_refused(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, *small_backbone.OPTIONS))
    hook = trainer.hook("MetaLearningHook")
    batch = next(trainer.base_batches)
    for rows in (torch.arange(12).flip(0), torch.arange(11), torch.arange(4).repeat(3)):
        hook.batches = iter(
            [{name: batch[name][rows] for name in ("images", "targets", "domains")}]
        )
        with trainer.storage, pytest.raises(DatasetError, match="DomainBalancedSampler"):
            hook.after_step()


def test_each_side_gets_its_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained(tmp_path)
    hook, seen = trainer.hook("MetaLearningHook"), []
    losses = trainer.model.meta_losses

    def watching(names: Any, batch: dict[str, Tensor], gates: Any) -> Any:
        seen.append({name: values.clone() for name, values in batch.items()})
        return losses(names, batch, gates)

    monkeypatch.setattr(trainer.model, "meta_losses", watching)
    batch = next(trainer.base_batches)
    hook.batches = iter([batch])
    with trainer.storage:
        hook.after_step()
    images = trainer.model.preprocess_image(batch)
    for side, given in zip(hook.split(1), seen, strict=True):
        rows = torch.isin(batch["domains"], torch.tensor(side))
        assert torch.equal(given["images"], images[rows])
        assert torch.equal(given["targets"], batch["targets"][rows])
        assert torch.equal(given["domains"], batch["domains"][rows])
