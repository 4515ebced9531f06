"""What a training leaves for TensorBoard, read back from its events file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from metabin_plugin.compat.training import LossScaler
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.engine.log import BINS, FeatureWatch, GateLog
from metabin_plugin.norm.network import THIRDS
from metabin_plugin.report.gates import gates_of_parts
from tests.distributed import small_backbone
from tests.engine.test_finite import infinite_gradient
from tests.engine.tiny_data import tiny_config

ITERATIONS, EPOCHS = 3, 2


def short_run(folder: Path, *options: str) -> MetaBINTrainer:
    """Ready to train a network of three layers for a moment."""
    length = ["METABIN.ITERS_PER_EPOCH", str(ITERATIONS), "SOLVER.MAX_EPOCH", str(EPOCHS)]
    cfg = tiny_config(folder, *small_backbone.OPTIONS, *length, "TEST.EVAL_PERIOD", "0", *options)
    trainer = MetaBINTrainer(cfg)
    trainer.resume_or_load(resume=False)
    # A gate that the few steps would not move below a half.
    with torch.no_grad():
        for gate in trainer.model.gates.values():
            gate[:3] = 0.25
    return trainer


def events(folder: Path) -> EventAccumulator:
    # 0 keeps all of them.
    found = EventAccumulator(str(folder / "out"), {"scalars": 0, "histograms": 0})
    found.Reload()
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], EventAccumulator]:
    """The gates that a run ended with, by layer, and its events."""
    folder = tmp_path_factory.mktemp("run")
    trainer = short_run(folder, "METABIN.GRADIENT_SIGNS_PERIOD", "2")
    trainer.train()
    gates = trainer.model.gates
    layers = {
        name.removeprefix("backbone.").removesuffix(".gate"): gate.detach().double().numpy()
        for name, gate in gates.items()
    }
    return layers, events(folder)


def test_the_gates_of_every_layer_are_histograms(
    run: tuple[dict[str, np.ndarray], EventAccumulator],
) -> None:
    layers, found = run
    assert [len(gates) for gates in layers.values()] == [8, 16, 24]
    tags = found.Tags()["histograms"]
    assert set(tags) == {"gates/all", *(f"gates/{name}" for name in layers)}
    for name, gates in {"all": np.concatenate(list(layers.values())), **layers}.items():
        written = found.Histograms(f"gates/{name}")
        # Once where an epoch ends, and not in the iterations between.
        assert [event.step for event in written] == [2, 5]
        last = written[-1].histogram_value
        assert (last.num, last.min, last.max) == (len(gates), gates.min(), gates.max())
        assert last.sum == pytest.approx(gates.sum(), rel=1e-6)
        edges = np.linspace(gates.min(), gates.max(), BINS + 1)
        assert last.bucket_limit == pytest.approx(edges[1:], rel=1e-6)
        assert sum(last.bucket) == len(gates)
        assert np.abs(np.array(last.bucket) - np.histogram(gates, edges)[0]).sum() <= 2


def test_means_and_shares_are_those_of_the_network_and_of_its_thirds(
    run: tuple[dict[str, np.ndarray], EventAccumulator],
) -> None:
    layers, found = run
    for part, gates in gates_of_parts(layers).items():
        values = np.concatenate(list(gates.values()))
        (_, mean), (_, below) = (
            found.Scalars(f"{name}/{part}") for name in ("gates_mean", "gates_below_half")
        )
        assert (mean.step, below.step) == (5, 5)
        assert mean.value == pytest.approx(values.mean(), rel=1e-6)
        assert below.value == pytest.approx((values < 0.5).mean(), rel=1e-6)
        assert 0 < below.value < 0.5


def test_losses_step_sizes_and_signs_are_scalars(
    run: tuple[dict[str, np.ndarray], EventAccumulator],
) -> None:
    _, found = run
    terms = ["scatter", "shuffle", "triplet"]
    names = ["total_loss", "lr", "inner_lr", "mtest_loss_triplet"]
    names += [f"mtrain_loss_{term}" for term in terms]
    names += [f"inner_gradient_{sign}/all" for sign in ("positive", "negative")]
    for name in names:
        assert [event.step for event in found.Scalars(name)] == [2, 5], name
    for term in terms:
        for sign in ("positive", "negative"):
            # Measured in iterations 1, 3 and 5, and each time kept until the next writing.
            assert [e.step for e in found.Scalars(f"inner_gradient_{sign}/{term}")] == [1, 5]


def test_skipped_updates_are_counted(tmp_path: Path) -> None:
    trainer = short_run(tmp_path)
    trainer.hook("MetaLearningHook").grad_scaler = LossScaler("cpu", init_scale=2.0**20)
    losses = trainer.model.meta_losses

    def overflowing(*arguments: Any) -> dict[str, Tensor]:
        return {name: infinite_gradient(loss) for name, loss in losses(*arguments).items()}

    trainer.model.meta_losses = overflowing
    trainer.train()
    assert [event.value for event in events(tmp_path).Scalars("meta_skipped_steps")] == [3, 6]


def test_a_network_without_gates_is_logged_as_before(tmp_path: Path) -> None:
    plain = ["MODEL.META_ARCHITECTURE", "Baseline", "MODEL.BACKBONE.NORM", "BN"]
    cfg = tiny_config(tmp_path, *small_backbone.OPTIONS, *plain, "METABIN.HOOKS", "()")
    assert not any(isinstance(writer, GateLog) for writer in MetaBINTrainer(cfg).build_writers())


@pytest.mark.parametrize(
    ("layers", "parts"),
    [(1, [["0"], [], []]), (2, [["0"], ["1"], []]), (5, [["0", "1"], ["2", "3"], ["4"]])],
)
def test_thirds_of_any_number_of_layers(layers: int, parts: list[list[str]]) -> None:
    gates = {f"backbone.{n}.gate": torch.full((2,), n / 10) for n in range(layers)}
    with EventStorage() as storage:
        GateLog(gates).write()
    means = {name: value for name, (value, _) in storage.latest().items()}
    for third, names in zip(THIRDS, parts, strict=True):
        if names:
            expected = np.mean([int(name) / 10 for name in names])
            assert means[f"gates_mean/{third}"] == pytest.approx(expected)
        else:
            assert f"gates_mean/{third}" not in means


def test_gates_are_fetched_once_and_only_for_an_iteration_that_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[int] = []
    fetch = Tensor.cpu

    def counting(tensor: Tensor) -> Tensor:
        fetched.append(tensor.numel())
        return fetch(tensor)

    monkeypatch.setattr(Tensor, "cpu", counting)
    gates = {f"layer{n}.gate": torch.ones(4) for n in range(5)}
    with EventStorage(7) as storage:
        GateLog(gates).write()
        assert fetched == [20]
        # The same iteration again, as another object does after a resume.
        GateLog(gates).write()
        assert fetched == [20]
        assert len(storage._histograms) == 6
        storage.iter = 8
        GateLog(gates).write()
    assert fetched == [20, 20]


@pytest.mark.parametrize(
    ("raw_triplets", "advice"),
    [(True, "set MODEL.LOSSES.TRI.NORM_FEAT True"), (False, "lower SOLVER.BASE_LR, 0.02 now")],
)
def test_parallel_features_are_told_once(
    raw_triplets: bool, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    watch = FeatureWatch(raw_triplets, 0.02)
    for cosines in ([0.8] * 15 + [0.999] * 5, [0.999] * 20, [1.0] * 20):
        with EventStorage(0) as storage:
            for cosine in cosines:
                storage.put_scalar("mtrain_loss_scatter", cosine)
            watch.write()
    (record,) = caplog.records
    assert "mtrain_loss_scatter 0.9990" in record.message
    assert record.message.endswith(f"; {advice}")


def test_a_training_without_the_scatter_loss_is_not_watched(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with EventStorage(0) as storage:
        storage.put_scalar("loss_triplet", 0.3)
        FeatureWatch(True, 0.02).write()
    assert not caplog.records


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ([], "set MODEL.LOSSES.TRI.NORM_FEAT True"),
        (["MODEL.LOSSES.TRI.NORM_FEAT", "True"], "lower SOLVER.BASE_LR, 0.01 now"),
        # A loss that is not computed has no setting that could help.
        (["MODEL.LOSSES.NAME", '("CrossEntropyLoss",)'], "lower SOLVER.BASE_LR, 0.01 now"),
    ],
)
def test_a_run_is_watched(
    tmp_path: Path, options: list[str], advice: str, plugin_log: pytest.LogCaptureFixture
) -> None:
    writers = short_run(tmp_path, *options).build_writers()
    (watch,) = (writer for writer in writers if isinstance(writer, FeatureWatch))
    with EventStorage(0) as storage:
        storage.put_scalar("mtrain_loss_scatter", 1.0)
        watch.write()
    assert plugin_log.messages[-1].endswith(f"; {advice}")
