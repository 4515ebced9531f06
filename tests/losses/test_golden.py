"""The losses against the reference numbers of the authors' implementation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from metabin_plugin.losses import cross_entropy_loss, scatter_loss, shuffle_loss, triplet_loss

GOLDEN = Path(__file__).parents[1] / "golden"
ARRAYS = np.load(GOLDEN / "losses.npz")
CASES = json.loads((GOLDEN / "losses_cases.json").read_text())
del CASES["_config"]

# Where exp overflows, the reference changes to a hinge with margin 0.3 for the whole batch.
OVERFLOW = {"inf_fallback_f32", "inf_fallback_f64"}
# The reference returns NaN for the scatter loss of an all-zero row.
UNDEFINED = {("zero_row", "sct")}


def array(case: str, name: str) -> Tensor:
    return torch.from_numpy(ARRAYS[f"{case}/{name}"].copy())


def loss_of(case: str, loss: str) -> Callable[[Tensor], Tensor]:
    if loss == "ce":
        return lambda x: cross_entropy_loss(x, array(case, "targets"), CASES[case]["eps"])
    identities, domains = array(case, "targets"), array(case, "domains")
    if loss == "sct":
        return lambda x: scatter_loss(x, domains, average="domain")
    if loss == "tri_add":
        return lambda x: shuffle_loss(x, identities, domains)
    return lambda x: triplet_loss(x, identities, margin=0.3)


def value_and_gradient(case: str, loss: str) -> tuple[Tensor, Tensor]:
    x = array(case, "logits" if loss == "ce" else "emb").requires_grad_()
    value = loss_of(case, loss)(x)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


def stored() -> list[tuple[str, str]]:
    names = (key.split("/") for key in ARRAYS.files if key.endswith("/value"))
    return [(case, loss) for case, loss, _ in names]


def assert_gradient_matches(actual: Tensor, case: str, loss: str) -> None:
    expected = array(case, f"{loss}/grad")
    double = expected.dtype == torch.float64
    # Scatter gradients of nearly parallel rows are differences of nearly equal numbers.
    relative, absolute = (1e-9, 1e-15) if double else (3e-5, 1e-9)
    error = (actual - expected).abs().max()
    assert error <= relative * expected.abs().max() + absolute, f"{case}/{loss}: {error:.1e}"


@pytest.mark.parametrize(("case", "loss"), [c for c in stored() if c not in UNDEFINED])
def test_value_and_gradient(case: str, loss: str) -> None:
    value, gradient = value_and_gradient(case, loss)
    assert_gradient_matches(gradient, case, loss)
    expected = array(case, f"{loss}/value").item()
    if loss == "tri_add" and case in OVERFLOW:
        # All gaps are large there, so that softplus(gap) is the gap without the margin.
        expected -= 0.3
    tolerance = 1e-9 if gradient.dtype == torch.float64 else 1e-6
    assert value.item() == pytest.approx(expected, rel=tolerance)


def test_all_losses_are_covered() -> None:
    losses = {loss for _, loss in stored()}
    assert losses == {"tri", "tri_mtrain", "tri_mtest", "tri_add", "sct", "ce"}
    described = sum(len(case.get("values", ["ce"])) for case in CASES.values())
    assert len(stored()) == described


@pytest.mark.parametrize(
    ("case", "loss"),
    [(case, loss) for case, entry in CASES.items() for loss in entry.get("errors", {})],
)
def test_no_negatives_give_zero_where_the_reference_raises(case: str, loss: str) -> None:
    value, gradient = value_and_gradient(case, loss)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_an_all_zero_row_is_finite_where_the_reference_is_not() -> None:
    value, gradient = value_and_gradient("zero_row", "sct")
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
