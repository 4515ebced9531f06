"""The worked examples: what each adds computes what it says, and can be named in a config."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metabin_plugin.engine import check_config
from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling import MetaRows
from metabin_plugin.norm import BatchInstanceNorm2d, gate_parameters
from metabin_plugin.registries import HOOK_REGISTRY, META_LOSS_REGISTRY, NORM_REGISTRY
from tests.distributed import small_backbone
from tests.engine.starting import started
from tests.engine.tiny_data import tiny_config

EXAMPLES = Path(__file__).parents[2] / "projects" / "Examples"
Example = Callable[[str], dict[str, Any]]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Example:
    """Imports an example; what it registers is forgotten after the test."""
    for registry in (NORM_REGISTRY, META_LOSS_REGISTRY, HOOK_REGISTRY):
        monkeypatch.setattr(registry, "_obj_map", dict(registry._obj_map))
    return lambda name: runpy.run_path(str(EXAMPLES / f"{name}.py"))


def rows(features: Tensor, domains: Tensor) -> MetaRows:
    nobody = torch.zeros(len(domains), dtype=torch.long)
    return MetaRows(features, nobody, domains, None, 0.3, 0.1, "")


def test_a_layer_with_one_gate_is_bin_with_their_mean(example: Example) -> None:
    torch.manual_seed(0)
    layer = example("own_norm")["LayerGateNorm2d"](6).double()
    plain = BatchInstanceNorm2d(6).double()
    x = torch.randn(4, 6, 5, 3, dtype=torch.float64) * 3 + 1
    with torch.no_grad():
        for values in layer.parameters():
            values.copy_(torch.rand(6))
        plain.load_state_dict(layer.state_dict())
        plain.gate.fill_(layer.gate.mean())
    weights = torch.randn_like(x)
    for one in (layer, plain):
        (one(x) * weights).sum().backward()
    assert torch.allclose(layer(x), plain(x), rtol=1e-12, atol=1e-12)
    assert torch.allclose(layer.gate.grad, plain.gate.grad.mean().expand(6), rtol=1e-10)
    layer.eval(), plain.eval()
    assert torch.allclose(layer(x), plain(x), rtol=1e-12, atol=1e-12)


def test_gates_of_a_layer_stay_equal_in_a_training(example: Example, tmp_path: Path) -> None:
    example("own_norm")
    options = [*small_backbone.OPTIONS, "MODEL.BACKBONE.NORM", "LayerGateNorm2d"]
    losses = ["METABIN.META_TEST_LOSSES", "('ShuffleLoss', 'TripletLoss')"]
    trainer = started(tiny_config(tmp_path, *options, *losses))
    with trainer.storage:
        with torch.no_grad():
            for gate in trainer.model.gates.values():
                gate.fill_(0.5)
        for _ in range(3):
            trainer.run_step()
            trainer.hook("MetaLearningHook").after_step()
    gates = [gate.detach() for gate in gate_parameters(trainer.model).values()]
    assert len(gates) == 3
    for gate in gates:
        assert abs(gate[0].item() - 0.5) > 1e-4
        assert torch.allclose(gate, gate[0].expand_as(gate), atol=1e-6)


def test_the_distance_of_domain_means(example: Example) -> None:
    loss = example("own_loss")["domain_means"]
    rng = np.random.default_rng(0)
    domains = np.array([0, 0, 0, 2, 2, 1])
    features = rng.normal(size=(6, 4))
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = [units[domains == domain].mean(0) for domain in domains]
    expected = np.mean([[np.sum((a - b) ** 2) for a in means] for b in means])
    drawn = torch.tensor(features, requires_grad=True)
    value = loss(rows(drawn, torch.tensor(domains)))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert drawn.grad is not None and drawn.grad.abs().min() > 0
    assert loss(rows(drawn, torch.zeros(6))).item() == pytest.approx(0, abs=1e-6)


def test_the_loss_is_chosen_by_name(example: Example, tmp_path: Path) -> None:
    key = ["METABIN.META_TRAIN_LOSSES", "('domain_means',)"]
    with pytest.raises(ConfigError, match=r"META_TRAIN_LOSSES is 'domain_means'; choose among"):
        check_config(tiny_config(tmp_path, *key))
    example("own_loss")
    trainer = started(tiny_config(tmp_path, *small_backbone.OPTIONS, *key))
    with trainer.storage:
        trainer.run_step()
        trainer.hook("MetaLearningHook").after_step()
    logged = {name for name in trainer.storage.latest() if "_loss_" in name}
    assert logged == {"mtrain_loss_domain_means", "mtest_loss_triplet"}


@pytest.mark.parametrize("result", [torch.zeros(3), 0.5])
def test_a_loss_that_is_no_scalar_is_one_sentence(
    example: Example, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, result: object
) -> None:
    monkeypatch.setitem(META_LOSS_REGISTRY._obj_map, "mine", lambda rows: result)
    options = [*small_backbone.OPTIONS, "METABIN.META_TEST_LOSSES", "('mine',)"]
    trainer = started(tiny_config(tmp_path, *options))
    with trainer.storage, pytest.raises(ConfigError, match=r"^the loss mine of .* not a scalar"):
        trainer.hook("MetaLearningHook").after_step()


@pytest.mark.parametrize("second_order", [False, True])
def test_every_domain_is_left_out_once(
    example: Example, tmp_path: Path, second_order: bool
) -> None:
    example("own_variant")
    hooks = ["METABIN.HOOKS", "('LeaveOneOutHook',)", "METABIN.SECOND_ORDER", str(second_order)]
    rates = ["METABIN.INNER_LR.LOW", "0.1", "METABIN.OUTER_LR", "0.5"]
    trainer = started(tiny_config(tmp_path, *small_backbone.OPTIONS, *hooks, *rates))
    model = trainer.model.double()
    gates = {name: gate for name, gate in model.gates.items()}
    with torch.no_grad():
        for gate in gates.values():
            gate.fill_(0.5)
    batch = next(trainer.base_batches)
    trainer.base_batches = iter([dict(batch)])
    images = {**batch, "images": model.preprocess_image({"images": batch["images"].double()})}
    expected = {name: torch.zeros_like(gate) for name, gate in gates.items()}
    for left_out in range(3):
        is_test = images["domains"] == left_out
        leaves = {name: gate.detach().clone().requires_grad_() for name, gate in gates.items()}

        def loss(names: tuple[str, ...], chosen: Tensor, at: dict[str, Tensor]) -> Tensor:
            part = {k: images[k][chosen] for k in ("images", "targets", "domains")}
            return torch.stack(list(model.meta_losses(names, part, at).values())).sum()

        node = trainer.cfg.METABIN
        inner = torch.autograd.grad(
            loss(node.META_TRAIN_LOSSES, ~is_test, leaves),
            list(leaves.values()),
            create_graph=second_order,
        )
        moved = {k: v - 0.1 * g for (k, v), g in zip(leaves.items(), inner, strict=True)}
        outer = torch.autograd.grad(
            loss(node.META_TEST_LOSSES, is_test, moved), list(leaves.values())
        )
        for name, gradient in zip(leaves, outer, strict=True):
            expected[name] += gradient / 3
    with trainer.storage:
        trainer.hook("LeaveOneOutHook").after_step()
    for name, gate in gates.items():
        new = (0.5 - 0.5 * expected[name]).clamp(0, 1)
        assert (new != 0.5).any()
        assert torch.allclose(gate, new, rtol=1e-9, atol=1e-9), name


def test_the_variant_needs_gates(example: Example, tmp_path: Path) -> None:
    example("own_variant")
    options = ["METABIN.HOOKS", "('LeaveOneOutHook',)", "MODEL.META_ARCHITECTURE", "Baseline"]
    with pytest.raises(ConfigError, match=r"LeaveOneOutHook.*META_ARCHITECTURE MetaBIN"):
        started(tiny_config(tmp_path, *small_backbone.OPTIONS, *options))
