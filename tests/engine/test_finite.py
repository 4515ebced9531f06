"""Numbers gone wrong: who notices, when, what is said, and what is left untouched."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.engine import launch
from fastreid.engine.train_loop import HookBase
from fastreid.utils import comm
from torch import Tensor, nn

from metabin_plugin.compat import launching
from metabin_plugin.compat.training import LossScaler
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.engine.finite import INPUT_IMAGES, LOSS_ITSELF, advice, first_nonfinite
from metabin_plugin.errors import NonFiniteError
from metabin_plugin.registries import HOOK_REGISTRY
from tests.engine.starting import started
from tests.engine.tiny_data import HALF_PRECISION, tiny_config
from tests.processes import context

INF, NAN = float("inf"), float("nan")
MIDDLE = "backbone.layer2.0.conv1"


def weights(trainer: MetaBINTrainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def assert_unchanged(trainer: MetaBINTrainer, before: dict[str, Tensor]) -> None:
    for name, value in trainer.model.named_parameters():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def base_error(trainer: MetaBINTrainer) -> str:
    """What a base step stops with; checks that it left weights and optimizer as they were."""
    before, state = weights(trainer), copy.deepcopy(trainer.optimizer.state_dict())
    with trainer.storage, pytest.raises(NonFiniteError) as caught:
        trainer.run_step()
    assert_unchanged(trainer, before)
    assert len(state["state"]) == len(trainer.optimizer.state_dict()["state"])
    return str(caught.value)


def spoil_images(model: nn.Module) -> None:
    preprocess = model.preprocess_image

    def with_nan(batch: Any) -> Tensor:
        images = preprocess(batch)
        images[3, 1, 4, 5] = NAN
        return images

    model.preprocess_image = with_nan


# --- the first layer with non-finite activations


class Scaled(nn.Module):
    """A block whose own computation, and not a layer in it, overflows."""

    def __init__(self, before: float, after: float) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.before) * self.after


class Net(nn.Module):
    """Two blocks with a factor between them."""

    def __init__(self, between: float = 1.0, before: float = 1.0, after: float = 1.0) -> None:
        super().__init__()
        self.first = Scaled(before, after)
        self.second = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 2))
        self.between = between

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": self.second(self.first(x) * self.between).sum()}


def fault_of(net: Net, x: Tensor | None = None) -> str | None:
    x = torch.ones(3, 2) if x is None else x
    place = first_nonfinite(net, lambda: net(x))
    return place and place.name


def poison(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.fill_(NAN)


def test_a_layer_is_named_with_its_class() -> None:
    net = Net()
    poison(net.second[0])
    poison(net.second[2])
    assert fault_of(net) == "second.0 (Linear)"


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_block_is_named_when_its_own_computation_is_at_fault(where: str) -> None:
    assert fault_of(Net(**{where: INF})) == "first (Scaled)"


def test_the_network_is_named_for_what_it_computes_between_blocks() -> None:
    assert fault_of(Net(between=INF)) == "Net"


def test_the_images_are_named() -> None:
    assert fault_of(Net(), torch.full((3, 2), NAN)) == INPUT_IMAGES


def test_a_loss_that_overflows_behind_finite_activations_is_named() -> None:
    net = Net()
    assert fault_of(net) is None
    place = first_nonfinite(net, lambda: {"loss": net(torch.ones(3, 2))["loss"] * INF})
    assert place is not None and place.name == LOSS_ITSELF


def test_sound_activations_leave_no_trace() -> None:
    net = Net()
    before = torch.get_rng_state()
    assert fault_of(net) is None
    assert torch.equal(before, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert net.training


# --- what to do about it

RATES = ("SOLVER.BASE_LR", "METABIN.INNER_LR.HIGH", "METABIN.OUTER_LR")


@pytest.mark.parametrize("rates", [(), RATES[:1], RATES], ids=["start", "base", "meta"])
@pytest.mark.parametrize("weights", ["", "trained.pth"])
@pytest.mark.parametrize(("rate", "warmup"), [(0.0, 0), (0.01, 0), (0.01, 7)])
@pytest.mark.parametrize(
    ("device", "dtype", "is_float16"),
    [
        ("cpu", None, False),
        ("cuda", None, False),
        ("cpu", "auto", False),
        ("cpu", "bfloat16", False),
        ("cuda", "auto", True),
        ("cuda", "float16", True),
        ("cuda", "bfloat16", False),
    ],
)
def test_advice_names_nothing_that_is_so_already(
    device: str,
    dtype: str | None,
    is_float16: bool,
    rate: float,
    warmup: int,
    weights: str,
    rates: tuple[str, ...],
) -> None:
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = device, weights
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = dtype is not None, dtype or "float16"
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_ITERS = rate, warmup
    cfg.METABIN.INNER_LR.HIGH = cfg.METABIN.OUTER_LR = rate
    found = advice(cfg, rates)
    assert ("set SOLVER.AMP.ENABLED False" in found) == (dtype is not None)
    assert ("SOLVER.AMP.DTYPE bfloat16" in found) == is_float16
    for key in RATES:
        assert (f"{key} (now 0.01)" in found) == (key in rates and rate > 0)
    assert ("SOLVER.WARMUP_ITERS" in found) == (bool(rates) and rate > 0)
    assert ("lengthen SOLVER.WARMUP_ITERS (now 7)" in found) == (bool(rates) and warmup > 0)
    assert ("check MODEL.WEIGHTS" in found) == (not rates and weights != "")
    assert found


@pytest.mark.parametrize(
    ("names", "base_losses", "said"),
    [
        (("TripletLoss",), (), "MODEL.LOSSES"),
        (("TripletLoss",), ("Uniformity",), "MODEL.LOSSES and METABIN.BASE_LOSSES"),
        ((), ("Uniformity",), "METABIN.BASE_LOSSES"),
    ],
)
def test_advice_names_the_losses_that_are_computed(
    names: tuple[str, ...], base_losses: tuple[str, ...], said: str
) -> None:
    cfg = get_cfg()
    cfg.MODEL.LOSSES.NAME, cfg.METABIN.BASE_LOSSES = names, base_losses
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.BASE_LR = False, 0.0
    assert advice(cfg, ()).endswith(f"and the scales of {said}")
    # Of what is known, nothing is left to change.
    assert advice(cfg, RATES[:1]) == f"look at what the losses of {said} compute"


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ((), "try another device or version of PyTorch"),
        (HALF_PRECISION, "set SOLVER.AMP.ENABLED False, or try another device"),
    ],
)
def test_a_fault_that_does_not_come_again_is_not_the_losses(
    tmp_path: Path, options: tuple[str, ...], remedy: str
) -> None:
    """As kernels that read what they have not written: NaN in training, none when looked for."""
    trainer = started(tiny_config(tmp_path, *options))

    def spoil(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output * NAN if output.requires_grad and trainer.model.training else output

    trainer.model.get_submodule(MIDDLE).register_forward_hook(spoil)
    error = base_error(trainer)
    assert "computed once more, all of this batch's activations and losses are finite" in error
    assert "loss itself" not in error
    assert error.split("; ")[-1].startswith(remedy)


# --- base step


def test_a_nan_pixel_stops_before_the_optimizer(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))
    spoil_images(trainer.model)
    error = base_error(trainer)
    train, test = trainer.hook("MetaLearningHook").split(0)
    assert error == (
        f"the loss is not finite at iteration 0; the input images are not finite; loss_cls nan, "
        f"loss_triplet nan; meta-train domains {train[0]}, {train[1]}, meta-test domains {test[0]};"
        " there is no checkpoint yet; look at the images of this batch and at the INPUT keys"
    )


def test_the_first_layer_that_overflows_is_named(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))
    with torch.no_grad():
        trainer.model.get_submodule(MIDDLE).weight.fill_(3e38)
    error = base_error(trainer)
    assert f"the first layer with non-finite activations is {MIDDLE} (Conv2d)" in error
    # Nothing was trained yet.
    assert "lower SOLVER.BASE_LR" not in error
    assert error.endswith(
        "check the weights that the training began with and the scales of MODEL.LOSSES"
    )


def test_step_sizes_are_advised_once_there_was_a_step(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, "METABIN.FIRST_BASE_UPDATES", "2"))
    weight = trainer.model.get_submodule(MIDDLE).weight

    def spoil(*_arguments: Any) -> None:
        with torch.no_grad():
            weight.fill_(3e38)

    trainer.optimizer.register_step_post_hook(spoil)
    with trainer.storage, pytest.raises(NonFiniteError) as caught:
        trainer.run_step()
    words = r"lower SOLVER\.BASE_LR \(now .*lengthen SOLVER\.WARMUP_ITERS"
    assert re.search(words, str(caught.value))


def test_a_weight_that_was_not_finite_is_named(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))
    with torch.no_grad():
        trainer.model.get_submodule(MIDDLE).weight[0, 0, 0, 0] = NAN
    assert f"the parameter {MIDDLE}.weight was not finite before this step" in base_error(trainer)


def test_a_loss_that_overflows_by_itself_is_told_apart(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))
    trainer.model.loss_kwargs["tri"]["scale"] = 1e39
    error = base_error(trainer)
    assert "loss_triplet inf" in error
    assert "activations of all layers are finite, so it arose in the loss itself" in error


def test_without_meta_learning_there_is_no_split(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, "METABIN.HOOKS", "()"))
    spoil_images(trainer.model)
    assert "meta-train" not in base_error(trainer)


@pytest.mark.parametrize("clipping", ["False", "True"])
def test_an_infinite_gradient_stops_before_the_optimizer(tmp_path: Path, clipping: str) -> None:
    trainer = started(tiny_config(tmp_path, "SOLVER.CLIP_GRADIENTS.ENABLED", clipping))
    weight = trainer.model.get_submodule(MIDDLE).weight
    weight.register_hook(lambda gradient: gradient * INF)
    error = base_error(trainer)
    assert error.startswith(f"the gradient of {MIDDLE}.weight is not finite at iteration 0; ")
    assert "arose in the backward pass" in error
    assert re.search(r"loss_cls \d", error)


def test_huge_finite_gradients_are_used(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))
    weight = trainer.model.get_submodule(MIDDLE).weight
    weight.register_hook(lambda gradient: torch.full_like(gradient, 3e38))
    before = weight.detach().clone()
    with trainer.storage:
        trainer.run_step()
    assert (weight < before - 1e30).all()


def test_the_layer_nearest_to_the_loss_is_named_for_a_gradient(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))

    def spoil(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * NAN)

    trainer.model.get_submodule(MIDDLE).register_forward_hook(spoil)
    assert base_error(trainer).startswith(f"the gradient of {MIDDLE}.weight is not finite")


def test_a_failed_step_leaves_the_statistics_of_its_explanation_out(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))
    trainer.model.loss_kwargs["tri"]["scale"] = 1e39
    base_error(trainer)
    # One batch was counted, the failed one; not a second one by the search for the layer.
    assert trainer.model.backbone.bn1.num_batches_tracked == 1


def test_nothing_of_a_step_is_kept_after_it(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))
    with trainer.storage:
        trainer.run_step()
    assert not trainer.model._forward_pre_hooks
    assert not trainer.model._forward_hooks
    assert not trainer.optimizer._optimizer_step_pre_hooks


def test_a_gradient_that_the_loss_scale_overflows_is_left_to_the_scaler(tmp_path: Path) -> None:
    # Large enough for some gradients to pass 2, whatever the network begins with.
    large = ("MODEL.LOSSES.CE.SCALE", "100.0")
    trainer = started(tiny_config(tmp_path, *HALF_PRECISION, *large))
    scaler = trainer._trainer.grad_scaler = LossScaler("cpu", init_scale=2.0**127)
    before = weights(trainer)
    with trainer.storage:
        trainer.run_step()
    assert_unchanged(trainer, before)
    assert scaler.get_scale() == 2.0**126


def test_a_loss_scale_is_looked_at_where_an_update_was_skipped_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To look is to wait for the device.
    trainer, looked = started(tiny_config(tmp_path, *HALF_PRECISION)), []
    scaler = trainer._trainer.grad_scaler = LossScaler("cpu", init_scale=2.0)
    look = scaler.get_scale
    monkeypatch.setattr(scaler, "get_scale", lambda: looked.append(1) or look())
    with trainer.storage:
        trainer.run_step()
    assert looked == []


def test_a_gradient_that_no_loss_scale_can_mend_stops(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, *HALF_PRECISION))
    trainer._trainer.grad_scaler = LossScaler("cpu", init_scale=2.0)
    weight = trainer.model.get_submodule(MIDDLE).weight
    weight.register_hook(lambda gradient: gradient * INF)
    with trainer.storage:
        trainer.run_step()
    assert f"the gradient of {MIDDLE}.weight is not finite" in base_error(trainer)


# --- meta step

Change = Callable[[Tensor], Tensor]


def spoil_stage(trainer: MetaBINTrainer, stage: str, change: Change) -> None:
    """Change the losses of one stage of the meta step."""
    model, hook = trainer.model, trainer.hook("MetaLearningHook")
    original = model.meta_losses
    # Every triplet pulls.
    model.loss_kwargs["tri"]["margin"] = 100.0
    domains = dict(zip(("meta-train", "meta-test"), hook.split(trainer.iter), strict=True))

    def meta_losses(names: Any, batch: Any, at_gates: Any) -> dict[str, Tensor]:
        losses = original(names, batch, at_gates)
        spoilt = set(batch["domains"].tolist()) == set(domains[stage])
        return {name: change(loss) if spoilt else loss for name, loss in losses.items()}

    model.meta_losses = meta_losses


def infinite_gradient(loss: Tensor) -> Tensor:
    if loss.requires_grad:
        loss.register_hook(lambda gradient: gradient * INF)
    return loss


def infinite_loss(loss: Tensor) -> Tensor:
    return (loss + 1) * INF


def gates(trainer: MetaBINTrainer) -> Tensor:
    return torch.cat([gate.detach().clone() for gate in trainer.model.gates.values()])


def with_moved_gates(trainer: MetaBINTrainer) -> Tensor:
    """Gates inside their range, where every gradient would move them."""
    with torch.no_grad():
        for gate in trainer.model.gates.values():
            gate.fill_(0.7)
    return gates(trainer)


@pytest.mark.parametrize("stage", ["meta-train", "meta-test"])
@pytest.mark.parametrize(
    ("change", "what"), [(infinite_loss, "loss"), (infinite_gradient, "gradient of")]
)
def test_without_a_loss_scale_a_meta_step_stops(
    tmp_path: Path, stage: str, change: Change, what: str
) -> None:
    trainer = started(tiny_config(tmp_path))
    before = with_moved_gates(trainer)
    spoil_stage(trainer, stage, change)
    with trainer.storage, pytest.raises(NonFiniteError) as caught:
        trainer.hook("MetaLearningHook").after_step()
    error = str(caught.value)
    assert error.startswith(f"the {stage} {what}")
    # The forward pass is spoilt by the losses that it is followed by, not in itself.
    where = "the activations of all layers" if what == "loss" else "activations and losses"
    assert f"is not finite at iteration 0; {where} are finite" in error
    assert "lower SOLVER.BASE_LR (now 0.01) or METABIN.INNER_LR.HIGH (now 0.1)" in error
    assert re.search(
        r"mtrain_loss_scatter \S+, .*mtest_loss_triplet \S+; meta-train domains", error
    )
    assert torch.equal(gates(trainer), before)


def test_a_meta_step_names_the_layer(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))
    with torch.no_grad():
        trainer.model.get_submodule(MIDDLE).weight.fill_(3e38)
    with trainer.storage, pytest.raises(NonFiniteError) as caught:
        trainer.hook("MetaLearningHook").after_step()
    error = str(caught.value)
    assert error.startswith("the meta-train loss is not finite")
    assert f"activations is {MIDDLE} (Conv2d)" in error


def test_a_meta_step_names_its_images(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))
    spoil_images(trainer.model)
    with trainer.storage, pytest.raises(NonFiniteError, match="the input images are not finite"):
        trainer.hook("MetaLearningHook").after_step()


@pytest.mark.parametrize("stage", ["meta-train", "meta-test"])
def test_with_a_loss_scale_a_meta_gradient_skips_the_update(tmp_path: Path, stage: str) -> None:
    trainer = started(tiny_config(tmp_path))
    hook = trainer.hook("MetaLearningHook")
    hook.grad_scaler = LossScaler("cpu", init_scale=8.0)
    before = with_moved_gates(trainer)
    with trainer.storage:
        spoil_stage(trainer, stage, infinite_gradient)
        hook.after_step()
        assert torch.equal(gates(trainer), before)
        assert hook.grad_scaler.get_scale() == 4.0
        assert trainer.storage.latest()["meta_skipped_steps"][0] == 1

        del trainer.model.meta_losses  # Sound again.
        hook.after_step()
    assert not torch.equal(gates(trainer), before)
    assert gates(trainer).isfinite().all()
    assert trainer.storage.latest()["meta_skipped_steps"][0] == 1
    state = hook.state_dict()
    assert state["skipped_steps"] == 1
    other = started(tiny_config(tmp_path)).hook("MetaLearningHook")
    other.load_state_dict(state)
    assert other.skipped_steps == 1


def test_no_update_is_made_from_gates_that_an_infinite_inner_gradient_clipped(
    tmp_path: Path,
) -> None:
    """rho - beta * inf is clipped to 0, where loss and outer gradient are finite again."""
    trainer = started(tiny_config(tmp_path))
    hook = trainer.hook("MetaLearningHook")
    hook.grad_scaler = LossScaler("cpu", init_scale=8.0)
    before = with_moved_gates(trainer)

    def meta_losses(names: Any, _batch: Any, at_gates: Any) -> dict[str, Tensor]:
        is_inner = "ScatterLoss" in names
        loss = torch.cat([infinite_gradient(g + 0) if is_inner else g for g in at_gates.values()])
        return {name: loss.mean() for name in names}

    trainer.model.meta_losses = meta_losses
    with trainer.storage:
        hook.after_step()
    assert torch.equal(gates(trainer), before)
    assert hook.skipped_steps == 1
    assert hook.grad_scaler.get_scale() == 4.0


@pytest.mark.parametrize("stage", ["meta-train", "meta-test"])
def test_with_a_loss_scale_a_meta_loss_still_stops(tmp_path: Path, stage: str) -> None:
    trainer = started(tiny_config(tmp_path))
    trainer.hook("MetaLearningHook").grad_scaler = LossScaler("cpu", init_scale=8.0)
    before = with_moved_gates(trainer)
    spoil_stage(trainer, stage, infinite_loss)
    with trainer.storage, pytest.raises(NonFiniteError, match=f"^the {stage} loss is not finite"):
        trainer.hook("MetaLearningHook").after_step()
    assert torch.equal(gates(trainer), before)


def test_a_meta_gradient_that_no_loss_scale_can_mend_stops(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))
    hook = trainer.hook("MetaLearningHook")
    hook.grad_scaler = LossScaler("cpu", init_scale=2.0)
    spoil_stage(trainer, "meta-test", infinite_gradient)
    with trainer.storage:
        hook.after_step()
        hook.after_step()
        with pytest.raises(NonFiniteError, match=r"^the meta-test gradient of"):
            hook.after_step()
    assert hook.skipped_steps == 2


# --- whole runs


class Sabotage(HookBase):
    """Raises the learning rate to 1e30 in the third iteration."""

    def __init__(self, cfg: CfgNode, trainer: MetaBINTrainer) -> None:
        pass

    def before_step(self) -> None:
        if self.trainer.iter == 2:
            for group in self.trainer.optimizer.param_groups:
                group["lr"] = 1e30


@pytest.fixture
def sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HOOK_REGISTRY._obj_map, "Sabotage", Sabotage)


@pytest.mark.slow
@pytest.mark.parametrize("hooks", ['("MetaLearningHook", "Sabotage")', '("Sabotage",)'])
def test_a_run_that_diverges_leaves_its_last_good_checkpoint(
    tmp_path: Path, sabotage: None, hooks: str
) -> None:
    out = tmp_path / "out"
    cfg = tiny_config(tmp_path, "METABIN.HOOKS", hooks, "SOLVER.MAX_EPOCH", "4")
    with pytest.raises(NonFiniteError) as caught:
        MetaBINTrainer(cfg).train()
    assert re.search(r"at iteration [23]; ", str(caught.value))
    assert f"the last good checkpoint is {out / 'model_0000.pth'}" in str(caught.value)
    assert (out / "last_checkpoint").read_text().strip() == "model_0000.pth"
    assert {path.name for path in out.glob("*.pth")} == {"model_0000.pth"}

    again = MetaBINTrainer(tiny_config(tmp_path, "SOLVER.MAX_EPOCH", "4", "METABIN.HOOKS", hooks))
    again.resume_or_load(resume=True)
    assert again.start_epoch == 1
    state = again.model.state_dict()
    assert all(value.isfinite().all() for value in state.values())


def test_no_checkpoint_is_made_of_a_network_that_is_not_finite(tmp_path: Path) -> None:
    """A variance that overflows leaves activations, and so the loss, finite."""
    trainer = started(tiny_config(tmp_path))
    trainer.model.backbone.bn1.running_var[0] = INF
    with (
        trainer.storage,
        pytest.raises(NonFiniteError, match=r"^backbone\.bn1\.running_var is not"),
    ):
        trainer._checkpoints.save_before_stop(0)
    assert not list((tmp_path / "out").glob("*.pth"))


def spoil_rank_1(trainer: MetaBINTrainer, fault: str) -> None:
    model = trainer.model.module
    if comm.get_rank() == 0:
        return
    if fault.startswith("images"):
        spoil_images(model)
    elif fault == "gradient":
        model.get_submodule(MIDDLE).weight.register_hook(lambda gradient: gradient * INF)
    else:
        original = model.meta_losses
        model.meta_losses = lambda *inputs: {
            name: infinite_loss(loss) for name, loss in original(*inputs).items()
        }


def fail_on_rank_1(folder: Path) -> None:
    """Run of one of two processes: trainings that each have their fault on rank 1 alone."""
    for fault in ("images", "gradient", "meta loss", "images, synchronized"):
        sync = str(fault == "images, synchronized")
        own = folder / str(comm.get_rank())
        trainer = MetaBINTrainer(tiny_config(own, "METABIN.SYNC_STATS", sync))
        spoil_rank_1(trainer, fault)
        try:
            trainer.train()
        except NonFiniteError as error:
            (folder / f"{fault} {comm.get_rank()}").write_text(str(error))


@pytest.mark.slow
def test_a_fault_in_one_process_stops_all_with_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = context()
    monkeypatch.setattr(launching.multiprocessing, "get_context", lambda _method: server)
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    launch(fail_on_rank_1, 2, args=(tmp_path,))
    images = "the loss is not finite at iteration 0; the input images are not finite; "
    sentences = {
        "images": images,
        "images, synchronized": images,
        "gradient": f"the gradient of {MIDDLE}.weight is not finite at iteration 0; ",
        "meta loss": "the meta-train loss is not finite at iteration 0; ",
    }
    for fault, sentence in sentences.items():
        errors = [(tmp_path / f"{fault} {rank}").read_text() for rank in range(2)]
        assert errors[0].startswith(sentence)
        assert errors[1] == errors[0]
