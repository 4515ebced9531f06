"""The layer against the reference numbers of the authors' implementation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from metabin_plugin.norm import batch_instance_norm
from tests.norm.oracle import bin_by_loops

GOLDEN = Path(__file__).parents[1] / "golden"
ARRAYS = np.load(GOLDEN / "bin_layer.npz")
CASES = json.loads((GOLDEN / "bin_layer_cases.json").read_text())
# At height 1 the reference zeroes its input in place and cannot go backward.
REGULAR = [name for name, case in CASES.items() if case["shape"][2] > 1]
PARAMETERS = ("gate", "bn_w", "bn_b", "in_w", "in_b")
GRADIENTS = ("dx", *(f"d{name}" for name in PARAMETERS))
MODES = ("general", "hold", "eval")
FORMS = ("plain", "native", "triton")


def array(case: str, name: str) -> Tensor:
    return torch.from_numpy(ARRAYS[f"{case}/{name}"].copy())


def arguments(case: str) -> list[Tensor]:
    return [array(case, name).requires_grad_() for name in ("x", *PARAMETERS)]


def running(case: str, mode: str) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if mode == "hold" else (array(case, "rm0"), array(case, "rv0"))


def assert_matches(actual: Tensor, case: str, name: str) -> None:
    expected = array(case, name)
    # float32 cases: the large means of "large_f32" cost the reference itself about as much.
    tolerance = 1e-9 if expected.dtype == torch.float64 else 3e-5
    error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    assert error <= tolerance, f"{case}/{name}: relative error {error:.1e}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", REGULAR)
def test_output_and_gradients(case: str, mode: str, form: str) -> None:
    inputs = arguments(case)
    y = batch_instance_norm(*inputs, *running(case, mode), training=mode != "eval", form=form)
    assert_matches(y, case, f"{mode}/y")
    gradients = torch.autograd.grad(y, inputs, array(case, "gout"))
    for name, gradient in zip(GRADIENTS, gradients, strict=True):
        assert_matches(gradient, case, f"{mode}/{name}")


@pytest.mark.parametrize("case", [c for c in CASES if c != "batch1_h1w1"])
def test_running_statistics(case: str) -> None:
    mean, var = running(case, "general")
    batch_instance_norm(*arguments(case), mean, var)
    assert_matches(mean, case, "rm1")
    assert_matches(var, case, "rv1")


@pytest.mark.parametrize("case", REGULAR)
def test_gates_moved_by_an_inner_step(case: str) -> None:
    """The gradient of a clipped gate is that of the gate it was clipped to (straight through)."""
    x, gate, *affine = arguments(case)
    moved = gate.detach() - CASES[case]["inner_step"] * array(case, "inner/ggrad")
    inner = moved.clamp(0, 1).requires_grad_()
    y = batch_instance_norm(x, inner, *affine)
    dx, dgate = torch.autograd.grad(y, (x, inner), array(case, "gout"))
    for name, value in (("gate_used", inner), ("y", y), ("dx", dx), ("dgate", dgate)):
        assert_matches(value, case, f"inner/{name}")


@pytest.mark.parametrize("mode", MODES)
def test_height_1_has_an_instance_half_here(mode: str) -> None:
    """The reference leaves the instance half out at height 1, whatever the width."""
    inputs = arguments("h1w5")
    mean, var = running("h1w5", mode)
    y = batch_instance_norm(*inputs, mean, var, training=mode != "eval")
    used = (array("h1w5", "rm0"), array("h1w5", "rv0")) if mode == "eval" else None
    torch.testing.assert_close(y, bin_by_loops(*inputs, running=used), rtol=1e-12, atol=1e-12)
    gate, instance_bias = inputs[1], inputs[5]
    no_instance = [*inputs[:4], torch.zeros_like(gate), torch.zeros_like(instance_bias)]
    batch_half = batch_instance_norm(*no_instance, *running("h1w5", mode), training=mode != "eval")
    assert_matches(batch_half, "h1w5", f"{mode}/y")


@pytest.mark.parametrize(
    ("case", "mode"), [*(("h1w1", mode) for mode in MODES), ("batch1_h1w1", "eval")]
)
def test_one_pixel_is_batch_normalization_not_scaled_by_the_gate(case: str, mode: str) -> None:
    """The reference multiplies by the gate there; batch normalization alone is what is left."""
    inputs = arguments(case)
    y = batch_instance_norm(*inputs, *running(case, mode), training=mode != "eval")
    assert_matches(y * inputs[1][:, None, None], case, f"{mode}/y")


def test_one_value_per_channel_cannot_be_trained_on() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        batch_instance_norm(*arguments("batch1_h1w1"))
