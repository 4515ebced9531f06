"""Gradients of each meta-train loss alone, against differences of losses computed by loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from metabin_plugin.cli.plot import by_iteration
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import ConfigError
from metabin_plugin.meta import split_domains
from metabin_plugin.modeling import MetaBIN
from metabin_plugin.report.files import FigureError
from metabin_plugin.report.gate_gradients import (
    MetaTrainBatches,
    TermGradients,
    iteration_of,
    measure_gradients,
    term_gradients,
)
from tests.engine.tiny_data import tiny_config

TERMS = ("ScatterLoss", "ShuffleLoss", "TripletLoss")
MARGIN = 0.3


def scatter(rows: list[list[float]], domains: list[int]) -> float:
    total = 0.0
    units = []
    for row in rows:
        length = math.hypot(*row)
        units.append([x / length for x in row])
    for unit, domain in zip(units, domains, strict=True):
        members = [u for u, d in zip(units, domains, strict=True) if d == domain]
        centre = [sum(column) / len(members) for column in zip(*members, strict=True)]
        dot = sum(x * y for x, y in zip(unit, centre, strict=True))
        total += dot / math.hypot(*centre)
    return total / len(rows)


def shuffle(rows: list[list[float]], people: list[int], domains: list[int]) -> float:
    total = 0.0
    for i, row in enumerate(rows):
        others = [(math.dist(row, r), people[j], domains[j]) for j, r in enumerate(rows)]
        inter = max(d for d, _, domain in others if domain != domains[i])
        intra = min(d for d, p, domain in others if domain == domains[i] and p != people[i])
        total += math.log1p(math.exp(inter - intra))
    return total / len(rows)


def triplet(rows: list[list[float]], people: list[int]) -> float:
    total = 0.0
    for i, row in enumerate(rows):
        others = [(math.dist(row, r), people[j]) for j, r in enumerate(rows)]
        positive = max(d for d, p in others if p == people[i])
        negative = min(d for d, p in others if p != people[i])
        total += max(positive - negative + MARGIN, 0.0)
    return total / len(rows)


@torch.no_grad()
def plain_losses(network: MetaBIN, batch: dict[str, Tensor]) -> dict[str, float]:
    """The terms from Eq. 3, 6 and 7 and an ordinary forward pass in training mode."""
    images = (batch["images"] - network.pixel_mean) / network.pixel_std
    rows = network.backbone(images).mean((2, 3)).tolist()
    people, domains = batch["targets"].tolist(), batch["domains"].tolist()
    return {
        "ScatterLoss": scatter(rows, domains),
        "ShuffleLoss": shuffle(rows, people, domains),
        "TripletLoss": triplet(rows, people),
    }


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> MetaBIN:
    """In double precision, with open gates."""
    torch.manual_seed(0)
    built = MetaBINTrainer.build_model(tiny_config(tmp_path_factory.mktemp("net"))).double().train()
    for gate in built.gates.values():
        gate.data.uniform_(0.3, 0.9)
    return built


def random_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "images": torch.rand(8, 3, 32, 16, generator=generator, dtype=torch.float64) * 255,
        "targets": torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]),
        "domains": torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
    }


def test_gradients_equal_differences_of_plain_losses(network: MetaBIN) -> None:
    batch = random_batch()
    gradients = term_gradients(network, TERMS, batch)
    # A random network bends sharply: with 1e-5 the difference is off by a fifth.
    step, compared = 1e-7, 0
    for layer, gate in enumerate(network.gates.values()):
        channel = layer % len(gate)
        values = []
        for sign in (1, -1):
            gate.data[channel] += sign * step
            values.append(plain_losses(network, batch))
            gate.data[channel] -= sign * step
        for term in TERMS:
            difference = (values[0][term] - values[1][term]) / (2 * step)
            found = gradients[term][layer][channel].item()
            assert found == pytest.approx(difference, rel=1e-3, abs=1e-6)
            compared += abs(difference) > 1e-4
    assert compared > 40


def test_counts_are_of_the_gradients_of_each_batch(network: MetaBIN) -> None:
    batches = [random_batch(), {**random_batch(), "images": random_batch()["images"].flip(3)}]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measured = measure_gradients(network, TERMS, batches)
    assert list(measured) == ["scatter", "shuffle", "triplet"]
    gradients = [term_gradients(network, TERMS, batch) for batch in batches]
    for name, term in zip(measured, TERMS, strict=True):
        together = torch.cat([gradient for both in gradients for gradient in both[term]])
        positive, negative, zero = measured[name].shares()
        assert positive == pytest.approx(sum(v > 0 for v in together.tolist()) / len(together))
        assert negative == pytest.approx(sum(v < 0 for v in together.tolist()) / len(together))
        assert positive + negative + zero == pytest.approx(1)
        assert measured[name].mean() == pytest.approx(together.mean().item(), rel=1e-9)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_shares_of_counts_made_by_hand() -> None:
    term = TermGradients(
        layers=["a", "b"],
        gates=np.array([2, 4]),
        positive=np.array([[1.0, 4.0], [1.0, 0.0]]),
        negative=np.array([[1.0, 0.0], [0.0, 2.0]]),
        total=np.array([[0.0, 8.0], [1.0, -4.0]]),
    )
    assert term.shares() == pytest.approx((6 / 12, 3 / 12, 3 / 12))
    assert term.mean() == pytest.approx(5 / 12)
    # 5 of 6 and 1 of 6 positive.
    assert term.deviation() == pytest.approx(math.sqrt(2 * (1 / 3) ** 2))
    np.testing.assert_allclose(term.layer_means(), [1 / 4, 4 / 8])
    np.testing.assert_allclose(term.layer_shares(), [[2 / 4, 1 / 4, 1 / 4], [4 / 8, 2 / 8, 2 / 8]])


def test_a_gradient_that_is_not_finite_is_refused(network: MetaBIN) -> None:
    batch = random_batch()
    batch["images"][0] = float("nan")
    with pytest.raises(FigureError, match="gradient of ScatterLoss is not finite"):
        measure_gradients(network, TERMS, [batch])


def test_meta_train_batches_repeat_and_hold_the_drawn_domains(tmp_path: Path) -> None:
    batches = MetaTrainBatches(tiny_config(tmp_path), 3)
    first, second = list(batches), list(batches)
    assert len(first) == 3 and batches.num_identities == 12
    for number, (batch, again) in enumerate(zip(first, second, strict=True)):
        assert torch.equal(batch["images"], again["images"])
        meta_train, _ = split_domains(3, 2, 3, number)
        # 12 images of 3 domains, of which 2 are kept.
        assert batch["domains"].tolist() == [meta_train[0]] * 4 + [meta_train[1]] * 4
        assert len(batch["images"]) == len(batch["targets"]) == 8
    assert not torch.equal(first[0]["images"], first[1]["images"])


def test_the_size_of_the_meta_batch_is_honoured(tmp_path: Path) -> None:
    (batch,) = MetaTrainBatches(tiny_config(tmp_path, "METABIN.IMS_PER_BATCH", "6"), 1)
    assert len(batch["images"]) == 4


@pytest.mark.parametrize("number", ["0", "3"])
def test_a_split_without_meta_train_or_meta_test_is_refused(tmp_path: Path, number: str) -> None:
    cfg = tiny_config(tmp_path, "METABIN.NUM_META_TRAIN", number)
    with pytest.raises(ConfigError, match=f"METABIN.NUM_META_TRAIN is {number} of the 3"):
        MetaTrainBatches(cfg, 1)


def checkpoint_at(path: Path, iteration: int | None) -> Path:
    progress = {} if iteration is None else {"progress": {"iteration": iteration}}
    torch.save({"model": {}, **progress}, path)
    return path


def test_checkpoints_are_ordered_by_iteration(tmp_path: Path) -> None:
    late, early = checkpoint_at(tmp_path / "a.pth", 20), checkpoint_at(tmp_path / "b.pth", 3)
    unknown = checkpoint_at(tmp_path / "c.pth", None)
    assert list(by_iteration([late, early]).items()) == [(3, early), (20, late)]
    assert by_iteration([unknown]) == {0: unknown}
    assert iteration_of([]) is None
    with pytest.raises(FigureError, match="does not say its iteration"):
        by_iteration([late, unknown])
    with pytest.raises(FigureError, match="are both of iteration 20"):
        by_iteration([late, late])
