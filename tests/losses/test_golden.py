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


def value_and_gradient(
    case: str, loss: str, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    x = array(case, "logits" if loss == "ce" else "emb").to(dtype).requires_grad_()
    value = loss_of(case, loss)(x)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


def stored() -> list[tuple[str, str]]:
    names = (key.split("/") for key in ARRAYS.files if key.endswith("/value"))
    return [(case, loss) for case, loss, _ in names]


def assert_matches(actual: Tensor, exact: Tensor, reference: Tensor, tolerance: float) -> None:
    # In float32 the reference is rounded too: ours may be as far from the exact value as it is.
    own = 0 if actual.dtype == torch.float64 else (reference - exact).abs().max()
    # Scatter gradients of nearly parallel rows are differences of nearly equal numbers.
    absolute = 1e-15 if actual.dtype == torch.float64 else 1e-9
    error = (actual - exact).abs().max()
    assert error <= tolerance * exact.abs().max() + own + absolute, f"{error:.1e}"


@pytest.mark.parametrize(("case", "loss"), [c for c in stored() if c not in UNDEFINED])
def test_value_and_gradient(case: str, loss: str) -> None:
    value, gradient = value_and_gradient(case, loss)
    expected = [array(case, f"{loss}/value"), array(case, f"{loss}/grad")]
    if loss == "tri_add" and case in OVERFLOW:
        # All gaps are large there, so that softplus(gap) is the gap without the margin.
        expected[0] = expected[0] - 0.3
    double = gradient.dtype == torch.float64
    exact = expected if double else value_and_gradient(case, loss, torch.float64)
    assert_matches(value, exact[0], expected[0], 1e-9 if double else 1e-6)
    assert_matches(gradient, exact[1], expected[1], 1e-9 if double else 3e-5)


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
