"""Mixed precision: which type, what stays in float32, and the loss scale of the inner gradient."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.utils.events import EventStorage
from torch import Tensor, nn

from metabin_plugin.compat.training import LossScaler
from metabin_plugin.engine import MetaBINTrainer, half_precision
from metabin_plugin.engine.half_precision import fault_of
from metabin_plugin.errors import ConfigError
from metabin_plugin.meta import meta_step
from metabin_plugin.norm import BatchInstanceNorm2d
from tests.engine.starting import started
from tests.engine.tiny_data import HALF_PRECISION, tiny_config

# --- which type


def test_float16_on_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.AMP\.DTYPE is 'float16'.*DTYPE bfloat16"):
        MetaBINTrainer(tiny_config(tmp_path, *HALF_PRECISION, "SOLVER.AMP.DTYPE", "float16"))


def test_an_unused_type_is_not_refused(tmp_path: Path) -> None:
    MetaBINTrainer(tiny_config(tmp_path, "SOLVER.AMP.DTYPE", "float16"))


class Seen(Exception):
    """Enough of the forward pass was run; float16 is slow on CPU."""


def test_both_steps_compute_in_the_configured_type(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, *HALF_PRECISION))
    # As on a GPU, where both types can be chosen.
    trainer._trainer.amp_dtype = trainer.hook("MetaLearningHook").amp_dtype = "float16"

    def look(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        raise Seen(output.dtype)

    trainer.model.backbone.conv1.register_forward_hook(look)
    for step in (trainer.run_step, trainer.hook("MetaLearningHook").after_step):
        with trainer.storage, pytest.raises(Seen) as seen:
            step()
        assert seen.value.args == (torch.float16,)


@pytest.mark.parametrize(("dtype", "scales"), [("float16", True), ("bfloat16", False)])
def test_the_trainer_passes_the_type_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, scales: bool
) -> None:
    from metabin_plugin.config import check

    monkeypatch.setattr(check, "check_mixed_precision", lambda cfg: None)
    trainer = MetaBINTrainer(tiny_config(tmp_path, *HALF_PRECISION, "SOLVER.AMP.DTYPE", dtype))
    hook = trainer.hook("MetaLearningHook")
    assert trainer._trainer.amp_dtype == hook.amp_dtype == dtype
    assert trainer.grad_scaler.is_enabled() == hook.grad_scaler.is_enabled() == scales


# --- convolutions that the device computes wrongly


def wrong_where(is_wrong: Callable[[Tensor, Tensor], bool], part: str) -> Callable[..., Tensor]:
    """``F.conv2d`` of a device that gives NaN in half precision, for some shapes."""
    sound = F.conv2d

    def conv2d(x: Tensor, weight: Tensor, *others: Any, **settings: Any) -> Tensor:
        is_half = torch.is_autocast_enabled("cpu") or x.dtype in (torch.bfloat16, torch.float16)
        if not (is_half and is_wrong(x, weight)):
            return sound(x, weight, *others, **settings)
        if part == "weight gradient":
            weight = weight.view_as(weight)
            weight.register_hook(lambda gradient: gradient * float("nan"))
            return sound(x, weight, *others, **settings)
        return sound(x, weight, *others, **settings) * float("nan")

    return conv2d


@pytest.fixture
def nothing_known() -> Iterator[None]:
    fault_of.cache_clear()
    yield
    fault_of.cache_clear()


@pytest.mark.parametrize("part", ["output", "weight gradient"])
@pytest.mark.parametrize("options", [(), ("METABIN.CHANNELS_LAST", "True")])
def test_wrong_convolutions_are_refused_before_anything_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nothing_known: None,
    part: str,
    options: tuple[str, ...],
) -> None:
    wrong = wrong_where(lambda x, weight: x.shape[1] == 128 and x.shape[2] <= 16, part)
    monkeypatch.setattr(F, "conv2d", wrong)
    trainer = started(tiny_config(tmp_path, *HALF_PRECISION, *options))
    before = copy.deepcopy(trainer.model.state_dict())
    with trainer.storage, pytest.raises(ConfigError) as caught:
        trainer.run_step()
    error = str(caught.value)
    assert error.startswith(
        "SOLVER.AMP.ENABLED is True, but this cpu computes convolutions wrongly in bfloat16: layer "
        "backbone.layer2.0.conv2, a 3x3 convolution of 128 to 128 channels, stride 1, on maps of "
        f"16x8 (one of 3 kinds), {part} off by nan"
    )
    assert error.endswith(
        "set SOLVER.AMP.ENABLED False, or try larger images than 128x64 (INPUT.SIZE_TRAIN)"
    )
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_fault_of_maps_that_the_network_does_not_have_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_known: None
) -> None:
    monkeypatch.setattr(F, "conv2d", wrong_where(lambda x, weight: x.shape[2] <= 4, "output"))
    trainer = started(tiny_config(tmp_path, *HALF_PRECISION))
    with trainer.storage:
        trainer.run_step()
    trainer = started(tiny_config(tmp_path, *HALF_PRECISION, "INPUT.SIZE_TRAIN", "[32, 16]"))
    with trainer.storage, pytest.raises(ConfigError, match=r"on maps of 4x2.*than 32x16"):
        trainer.run_step()


def test_float32_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_precision, "fault_of", lambda *arguments: "wrong")
    trainer = started(tiny_config(tmp_path))
    with trainer.storage:
        trainer.run_step()


def test_the_other_type_is_advised_where_it_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, where there are two types; without one here."""
    trainer = started(tiny_config(tmp_path, *HALF_PRECISION))
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.SOLVER.AMP.DTYPE = "cuda", "float16"
    images = torch.rand(2, 3, 128, 64)
    for wrong, words in (
        (
            {torch.float16: "wrong"},
            "set SOLVER.AMP.DTYPE bfloat16, or set SOLVER.AMP.ENABLED False",
        ),
        ({torch.float16: "wrong", torch.bfloat16: "wrong"}, "; set SOLVER.AMP.ENABLED False"),
    ):
        monkeypatch.setattr(
            half_precision, "fault_of", lambda *kind, wrong=wrong: wrong.get(kind[3])
        )
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match=words):
            half_precision.check_convolutions(cfg, trainer.model, images)


@pytest.mark.parametrize("hooks", ["()", '("MetaLearningHook",)'])
def test_trying_the_device_changes_nothing_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_known: None, hooks: str
) -> None:
    ends = []
    for is_tried in (True, False):
        if not is_tried:
            monkeypatch.setattr(half_precision, "check_convolutions", lambda *arguments: None)
        trainer = started(tiny_config(tmp_path, *HALF_PRECISION, "METABIN.HOOKS", hooks))
        frozen = trainer.model.backbone.layer1.eval()
        with trainer.storage:
            trainer.run_step()
        assert trainer.model.training and not frozen.training
        assert not trainer.model._forward_pre_hooks
        ends.append((trainer.model.state_dict(), torch.get_rng_state(), random.getstate()))
    (tried, *states), (plain, *expected) = ends
    assert all(torch.equal(value, plain[name]) for name, value in tried.items())
    assert torch.equal(states[0], expected[0]) and states[1] == expected[1]


# --- the state of a loss scale


def state_after(overflows: int) -> dict[str, float]:
    """State of a scaler of 16 after steps with infinite gradients."""
    scaler = LossScaler("cpu", init_scale=16.0)
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for _ in range(overflows):
        (scaler.scale(weight.sum()) * float("inf")).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return scaler.state_dict()


@pytest.mark.parametrize(("overflows", "scale"), [(0, 16.0), (1, 8.0)])
def test_a_loss_scale_is_resumed_whether_it_was_used_or_not(overflows: int, scale: float) -> None:
    state = state_after(overflows)
    fresh = LossScaler("cpu")
    fresh.load_state_dict(state)
    assert fresh.state_dict() == state
    assert fresh.scale(torch.ones(())).item() == scale


def test_a_run_without_a_loss_scale_can_be_resumed_with_one() -> None:
    state = LossScaler("cpu", enabled=False).state_dict()
    scaler = LossScaler("cpu", init_scale=16.0)
    scaler.load_state_dict(state)
    assert scaler.get_scale() == 16.0


def test_a_checkpoint_holds_the_base_steps_loss_scale(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, *HALF_PRECISION))
    assert trainer.checkpointer.checkpointables["grad_scaler"] is trainer.grad_scaler


# --- the loss scale and the inner gradient


class ThroughHalf(torch.autograd.Function):
    """Rounds values, and the gradients that come back, to float16 as a layer under autocast."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.half().float()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient.half().float()


def test_inner_gradients_below_float16_survive_with_the_loss_scale() -> None:
    """The smallest float16 is 6e-8; a gradient of 2e-8 is lost without a scale."""
    gates = {"gate": torch.tensor([0.5, 0.25])}
    slopes = torch.tensor([2e-8, -1e-8])

    def losses(at: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": (ThroughHalf.apply(at["gate"]) * slopes).sum()}

    lost = meta_step(gates, losses, losses, 0.1)
    assert not lost.inner_gradients["gate"].any()
    kept = meta_step(gates, losses, losses, 0.1, loss_scale=2.0**16)
    # float16 has 11 significant bits.
    torch.testing.assert_close(kept.inner_gradients["gate"], slopes, rtol=2**-11, atol=0)
    torch.testing.assert_close(kept.outer_gradients["gate"] / 2.0**16, slopes, rtol=2**-11, atol=0)


@pytest.mark.slow
def test_the_hook_keeps_the_scale_on_through_the_inner_gradient(tmp_path: Path) -> None:
    """In float16 itself: features whose gradients vanish at scale 1."""
    # float16 is slow on CPU.
    options = [*HALF_PRECISION, "INPUT.SIZE_TRAIN", "[64, 32]"]

    def inner_gradient(scale: float) -> Tensor:
        trainer = started(tiny_config(tmp_path, *options))
        hook = trainer.hook("MetaLearningHook")
        hook.amp_dtype, hook.grad_scaler = "float16", LossScaler("cpu", init_scale=scale)
        # Every triplet pulls.
        trainer.model.loss_kwargs["tri"]["margin"] = 100.0
        original = trainer.model.meta_losses
        trainer.model.meta_losses = lambda *inputs: {
            name: 1e-6 * loss for name, loss in original(*inputs).items()
        }
        seen: list[Tensor] = []
        update = hook.outer_update

        def outer_update(gradients: dict[str, Tensor]) -> None:
            seen.append(torch.cat(list(gradients.values())) / scale)
            update(gradients)

        hook.outer_update = outer_update
        with trainer.storage:
            hook.after_step()
        return seen[0]

    unscaled, scaled = inner_gradient(1.0), inner_gradient(2.0**16)
    lost = (unscaled == 0) & (scaled != 0)
    assert lost.sum() > 100


# --- what stays in float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_are_float32_under_autocast(dtype: torch.dtype) -> None:
    """At a mean of 1000 and a deviation near 1, half-precision statistics have no digit left."""
    torch.manual_seed(0)
    layer = BatchInstanceNorm2d(3, momentum=1.0)
    nn.init.constant_(layer.gate, 0.5)
    x = (1000 + 4 * torch.randn(4, 3, 8, 4)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    exact = x.double()
    variance, mean = torch.var_mean(exact, dim=(0, 2, 3))
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.running_var.double(), variance, rtol=1e-4, atol=0)
    expected = (F.batch_norm(exact, None, None, training=True) + F.instance_norm(exact)) / 2
    assert y.dtype is dtype
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), expected, rtol=rounding, atol=rounding)


def test_losses_and_running_statistics_are_float32(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, *HALF_PRECISION))
    types: set[torch.dtype] = set()

    def note(_model: nn.Module, _inputs: object, losses: dict[str, Tensor]) -> None:
        types.update(loss.dtype for loss in losses.values())

    trainer.model.register_forward_hook(note)
    original = trainer.model.meta_losses

    def meta_losses(*inputs: object) -> dict[str, Tensor]:
        losses = original(*inputs)
        types.update(loss.dtype for loss in losses.values())
        return losses

    trainer.model.meta_losses = meta_losses
    with trainer.storage:
        trainer.run_step()
        trainer.hook("MetaLearningHook").after_step()
    assert types == {torch.float32}
    floating = [v for v in trainer.model.state_dict().values() if v.is_floating_point()]
    assert {value.dtype for value in floating} == {torch.float32}


def test_the_base_triplet_loss_does_not_cancel_in_half_precision(tmp_path: Path) -> None:
    """Features of norm 1600 that are 4 apart: squares of 2.6e6, beyond float16."""
    model = MetaBINTrainer.build_model(tiny_config(tmp_path, "MODEL.HEADS.NUM_CLASSES", "4"))
    torch.manual_seed(0)
    features = (100 + 0.25 * torch.randn(4, 256)).half()
    labels = torch.tensor([0, 0, 1, 1])
    outputs = {
        "features": features,
        "cls_outputs": torch.randn(4, 4).half(),
        "pred_class_logits": torch.randn(4, 4).half(),
    }
    with EventStorage(), torch.autocast("cpu", torch.bfloat16):
        loss = model.losses(outputs, labels)["loss_triplet"]
    exact = torch.cdist(features.double(), features.double())
    positive = torch.stack([exact[0, 1], exact[0, 1], exact[2, 3], exact[2, 3]])
    negative = torch.cat([exact[:2, 2:].amin(1), exact[2:, :2].amin(1)])
    margin = model.loss_kwargs["tri"]["margin"]
    expected = (positive - negative + margin).clamp_min(0).mean()
    # Squares of 2.6e6 in float32, 2.6e6 * 2^-24 = 0.15 each, on a squared distance of 32.
    assert loss.double() == pytest.approx(expected.item(), abs=0.15)


# --- training


def losses_on_one_batch(cfg: CfgNode) -> list[float]:
    trainer = started(cfg)
    batch = next(trainer.base_batches)
    trainer._trainer._data_loader_iter = itertools.repeat(batch)
    with trainer.storage:
        for trainer.iter in range(4):
            trainer.run_step()
    return [value for value, _ in trainer.storage.histories()["loss_cls"].values()]


@pytest.mark.slow
def test_bfloat16_follows_float32(tmp_path: Path) -> None:
    """On one batch, where the loss falls by more than half in four steps.

    bfloat16 rounds by 2^-8; twenty layers, forward and backward, add up to 2 or 3 %, and each step
    multiplies the difference that the ones before it left, so that only the first two compare.
    """
    options = ["METABIN.HOOKS", "()", "SOLVER.WARMUP_ITERS", "0"]
    options += HALF_PRECISION
    half = losses_on_one_batch(tiny_config(tmp_path, *options))
    exact = losses_on_one_batch(tiny_config(tmp_path, *options, "SOLVER.AMP.ENABLED", "False"))
    assert exact[3] < exact[0] / 2
    assert half[3] < half[0] / 2
    assert half[0] == pytest.approx(exact[0], rel=0.02)
    assert half[1] == pytest.approx(exact[1], rel=0.05)
    assert half != exact


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_trains_on_a_gpu(tmp_path: Path, dtype: str) -> None:
    options = [*HALF_PRECISION, "SOLVER.AMP.DTYPE", dtype, "MODEL.DEVICE", "cuda"]
    trainer = started(tiny_config(tmp_path, *options))
    hook = trainer.hook("MetaLearningHook")
    with trainer.storage:
        # The first loss scale of float16 may be too high for some of them.
        for trainer.iter in range(6):
            trainer.run_step()
            hook.after_step()
    scaled = dtype == "float16"
    assert (hook.grad_scaler.get_scale() > 1) == scaled
    assert (trainer.grad_scaler.get_scale() > 1) == scaled
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    assert any((gate != 1).any() for gate in trainer.model.gates.values())
