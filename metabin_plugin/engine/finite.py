"""Stopping a training whose numbers went wrong, with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.engine import DefaultTrainer
from fastreid.utils import comm
from fastreid.utils.events import EventStorage
from torch import Tensor, nn

from metabin_plugin.compat.training import NonFiniteLosses, Watch, autocast_dtype
from metabin_plugin.engine.network_options import uncompiled
from metabin_plugin.errors import NonFiniteError
from metabin_plugin.meta import held_call

INPUT_IMAGES = "the input images"
LOSS_ITSELF = "the loss itself"
# Below it, a gradient that is not finite is none because of the loss scale.
LOWEST_LOSS_SCALE = 1.0
_BEFORE_ALL_LAYERS = -1


@contextmanager
def finite_base_step(trainer: DefaultTrainer) -> Iterator[None]:
    """Let no base step inside the block (Eq. 5) use a loss or a gradient that is not finite.

    With a loss scale (float16), a gradient that overflows only because of it is left to the scaler,
    which then skips the step; without one, or with one below 1, it stops.

    Args:
        trainer: a trainer with model, optimizer, checkpointer and current iteration.

    Raises:
        NonFiniteError: before the optimizer changed anything, on all processes alike.
    """
    step = _BaseStep(trainer)
    handles = [
        trainer.model.register_forward_pre_hook(step.remember_batch),
        trainer.model.register_forward_hook(step.remember_losses),
        trainer.optimizer.register_step_pre_hook(step.check_gradients),
        trainer.optimizer.register_step_post_hook(step.remember_update),
    ]
    trainer._trainer.watch = step.watch
    try:
        yield
        step.check_loss_scale()
    except NonFiniteLosses as signal:
        raise step.error("the loss", signal.losses) from None
    finally:
        trainer._trainer.watch = None
        for handle in handles:
            handle.remove()


class _BaseStep:
    """What is needed to explain a base step that failed."""

    def __init__(self, trainer: DefaultTrainer) -> None:
        self._trainer = trainer
        self._model: nn.Module = trainer.network
        self._device = next(self._model.parameters()).device.type
        self._batch: Any = None
        self._autocast: dict[str, Any] = {}
        self._losses: Mapping[str, Tensor] = {}
        self._is_trained = trainer.iter > 0
        self._passes = self._updates = 0
        self.watch = None if self._scales_losses() else Watch(self._gradient_sum)

    def remember_batch(self, _model: nn.Module, inputs: tuple[Any, ...]) -> None:
        (self._batch,) = inputs
        self._passes += 1
        self._autocast = {
            "dtype": torch.get_autocast_dtype(self._device),
            "enabled": torch.is_autocast_enabled(self._device),
        }

    def remember_losses(
        self, _model: nn.Module, _inputs: tuple[Any, ...], losses: Mapping[str, Tensor]
    ) -> None:
        self._losses = losses

    def remember_update(self, *_arguments: Any) -> None:
        self._is_trained = True
        self._updates += 1

    def check_gradients(self, *_arguments: Any) -> None:
        # With a loss scale the scaler has looked at each value.
        if self.watch is None or math.isfinite(self.watch.value):
            return
        # The sum of huge finite ones may overflow.
        if not all(gradient.isfinite().all() for gradient in self._gradients()):
            raise self._gradient_error()

    def check_loss_scale(self) -> None:
        # Only an update that was skipped lowers it, and to look is to wait for the device.
        if not self._scales_losses() or self._updates == self._passes:
            return
        if self._trainer.grad_scaler.get_scale() < LOWEST_LOSS_SCALE:
            raise self._gradient_error()

    def _scales_losses(self) -> bool:
        scaler = self._trainer.grad_scaler
        return scaler is not None and scaler.is_enabled()

    def _gradients(self) -> list[Tensor]:
        # fastreid's optimizers hold one flat buffer per learning rate and weight decay: few sums.
        return [
            parameter.grad
            for group in self._trainer.optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]

    def _gradient_sum(self) -> Tensor:
        # It costs a fraction of looking at each value, and is finite only where all are.
        return sum((gradient.sum() for gradient in self._gradients()), torch.zeros(()))

    def error(self, what: str, terms: Mapping[str, float]) -> NonFiniteError:
        fault = Fault(what, terms, ["SOLVER.BASE_LR"] if self._is_trained else [])
        return nonfinite_error(self._trainer, fault, self._model, self._forward)

    def _gradient_error(self) -> NonFiniteError:
        gradients = {
            name: parameter.grad
            for name, parameter in self._model.named_parameters()
            if parameter.grad is not None
        }
        # The backward pass meets the layers in reverse.
        name = next(reversed(nonfinite_names(gradients)), "a parameter")
        losses = {name: float(loss.detach()) for name, loss in self._losses.items()}
        return self.error(f"the gradient of {name}", losses)

    def _forward(self) -> object:
        with torch.autocast(self._device, **self._autocast):
            return held_call(self._model, self._batch)


def require_finite_weights(trainer: DefaultTrainer) -> None:
    """Refuse to make a checkpoint of a network that training has spoilt.

    A step may have finite gradients and yet overflow the weights, the running statistics, or what
    the losses of ``METABIN.BASE_LOSSES`` keep, which shows in a loss only later.

    Args:
        trainer: the trainer.

    Raises:
        NonFiniteError: a parameter or a buffer of the network is not finite.
    """
    network = trainer.network
    # The memories of losses are in no state dict.
    tensors = network.state_dict() | dict(network.named_buffers())
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    for name in nonfinite_names(floating)[:1]:
        raise NonFiniteError(
            f"{name} is not finite at iteration {trainer.iter}, so no checkpoint was made; "
            f"{_checkpoint(trainer)}; {advice(trainer.cfg, ['SOLVER.BASE_LR'])}"
        )


def largest_magnitudes(tensors: Collection[Tensor]) -> Sequence[Tensor]:
    """The largest magnitude in each tensor, which is infinite or NaN where a value is.

    Args:
        tensors: one at least.

    Returns:
        A scalar for each, on their device, not yet read. With several processes it is the same
        in all: 0, or NaN where the tensor is not finite in one of them.
    """
    largest = torch._foreach_norm([t.detach() for t in tensors], math.inf)
    if comm.get_world_size() == 1:
        return largest
    # Zero times a number that is not finite is NaN, which a sum keeps.
    everyones = torch.stack(largest).mul_(0)
    torch.distributed.all_reduce(everyones)
    return everyones.unbind()


def nonfinite_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a non-finite value, in their order."""
    if not tensors:
        return []
    finite = torch.stack([tensor.detach().isfinite().all() for tensor in tensors.values()])
    return [name for name, fine in zip(tensors, finite.tolist(), strict=True) if not fine]


@dataclass(frozen=True)
class Fault:
    """A number that is not finite.

    Attributes:
        what: the number, e.g. "the loss".
        terms: the losses of the step, by name in the log.
        rates: keys of the step sizes that the network was trained with so far; none where it is
            as it was when the training began.
    """

    what: str
    terms: Mapping[str, float]
    rates: Sequence[str]


def nonfinite_error(
    trainer: DefaultTrainer, fault: Fault, model: nn.Module, forward: Callable[[], object]
) -> NonFiniteError:
    """The error to stop with, the place in the network included.

    All processes of a distributed run must call this together, also one whose own numbers are
    finite: all get the same error.

    Args:
        trainer: the trainer, in the iteration that failed.
        fault: what is not finite.
        model: the network.
        forward: the failed step's forward pass, which leaves buffers as they are.
    """
    with EventStorage():
        place = _place(model, forward)
    # The fault may be in one process's batch alone.
    reports = comm.all_gather((place, dict(fault.terms)))
    place, terms = min(reports, key=_distance_from_fault)
    return NonFiniteError(
        "; ".join(
            part
            for part in (
                f"{fault.what} is not finite at iteration {trainer.iter}",
                _reason(place, fault.what),
                ", ".join(f"{name} {value:.4g}" for name, value in terms.items()),
                _split(trainer),
                _checkpoint(trainer),
                _remedy(trainer, place, fault),
            )
            if part
        )
    )


def _distance_from_fault(report: tuple[Origin | None, dict[str, float]]) -> tuple[float, bool]:
    place, terms = report
    # With synchronized statistics it spreads to all processes, but arises in one of them earlier.
    order = math.inf if place is None else place.order
    return order, all(map(math.isfinite, terms.values()))


def _reason(place: Origin | None, what: str) -> str:
    if place is None:
        return (
            "activations and losses are finite, so it arose in the backward pass"
            if "gradient" in what
            else "computed once more, all of this batch's activations and losses are finite"
        )
    if place.name == LOSS_ITSELF:
        return f"the activations of all layers are finite, so it arose in {LOSS_ITSELF}"
    if place.order == _BEFORE_ALL_LAYERS:
        return f"the parameter {place.name} was not finite before this step"
    if place.name == INPUT_IMAGES:
        return f"{INPUT_IMAGES} are not finite"
    return f"the first layer with non-finite activations is {place.name}"


def _remedy(trainer: DefaultTrainer, place: Origin | None, fault: Fault) -> str:
    cfg = trainer.cfg
    if place is None and "gradient" not in fault.what:
        # What does not come again has its cause in the device or its kernels.
        return ", or ".join([*_of_precision(cfg), "try another device or version of PyTorch"])
    if place is not None and place.name == INPUT_IMAGES:
        return "look at the images of this batch and at the INPUT keys"
    if place is not None and place.order == _BEFORE_ALL_LAYERS and fault.rates:
        resume = "go on from it and " if trainer.checkpointer.get_checkpoint_file() else ""
        return f"{resume}{advice(cfg, fault.rates)}"
    return advice(cfg, fault.rates)


def _split(trainer: DefaultTrainer) -> str:
    hooks = [hook for hook in trainer._hooks if hasattr(hook, "split")]
    if not hooks:
        return ""
    train, test = (", ".join(map(str, side)) for side in hooks[0].split(trainer.iter))
    return f"meta-train domains {train}, meta-test domains {test}"


def _checkpoint(trainer: DefaultTrainer) -> str:
    last = trainer.checkpointer.get_checkpoint_file()
    return f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"


def advice(cfg: CfgNode, rates: Sequence[str]) -> str:
    """What of a config's settings to change when numbers overflow.

    Args:
        cfg: the config.
        rates: keys of the step sizes that the network was trained with; none before the first step.

    Returns:
        Changes to choose from, none of which is made already.
    """
    return ", or ".join(
        [*_of_steps(cfg, rates), *_of_precision(cfg)]
        or [f"look at what the losses of {_of_losses(cfg)} compute"]
    )


def _of_losses(cfg: CfgNode) -> str:
    keys = {"MODEL.LOSSES": cfg.MODEL.LOSSES.NAME, "METABIN.BASE_LOSSES": cfg.METABIN.BASE_LOSSES}
    return " and ".join(key for key, names in keys.items() if names)


def _of_steps(cfg: CfgNode, rates: Sequence[str]) -> Iterator[str]:
    solver = cfg.SOLVER
    if not rates:
        start = "MODEL.WEIGHTS" if cfg.MODEL.WEIGHTS else "the weights that the training began with"
        yield f"check {start} and the scales of {_of_losses(cfg)}"
    values = {key: attrgetter(key)(cfg) for key in rates}
    lower = [f"{key} (now {value:g})" for key, value in values.items() if value > 0]
    if lower:
        yield f"lower {' or '.join(lower)}"
    if "SOLVER.BASE_LR" in rates and solver.BASE_LR > 0:
        verb = "lengthen" if solver.WARMUP_ITERS else "set"
        yield f"{verb} SOLVER.WARMUP_ITERS (now {solver.WARMUP_ITERS})"


def _of_precision(cfg: CfgNode) -> Iterator[str]:
    if not cfg.SOLVER.AMP.ENABLED:
        return
    dtype = autocast_dtype(torch.device(cfg.MODEL.DEVICE), cfg.SOLVER.AMP.DTYPE)
    if dtype is torch.float16:
        yield "set SOLVER.AMP.DTYPE bfloat16"
    yield "set SOLVER.AMP.ENABLED False"


@dataclass(frozen=True)
class Origin:
    """Where in a forward pass a value is not finite.

    Attributes:
        name: ``INPUT_IMAGES``, the layer's name in the network with its class, or ``LOSS_ITSELF``.
        order: how many layers had been entered or left before.
    """

    name: str
    order: int


def _place(model: nn.Module, forward: Callable[[], object]) -> Origin | None:
    for weight in nonfinite_names(dict(model.named_parameters()))[:1]:
        return Origin(weight, _BEFORE_ALL_LAYERS)
    return first_nonfinite(model, lambda: uncompiled(forward))


def first_nonfinite(model: nn.Module, forward: Callable[[], object]) -> Origin | None:
    """Where the first non-finite value of a forward pass arises.

    That is the first layer, in the order of execution, whose output has one although its inputs
    have none. A layer made of others is named only where its own computation is at fault.

    Args:
        model: the network; as it was afterwards, as long as ``forward`` leaves its buffers.
        forward: runs ``model``, or parts of it, and returns the losses. Called once, without
            gradients; the random generators of PyTorch are afterwards as they were.

    Returns:
        The place, or None where the outputs of all layers and the losses are finite.
    """
    watch = _Watch(type(model).__name__)
    handles = [
        handle
        for name, module in model.named_modules()
        if module is not model
        for handle in watch.attach(f"{name} ({type(module).__name__})", module)
    ]
    device = next(model.parameters()).device
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            watch.finish(forward())
    finally:
        for handle in handles:
            handle.remove()
    return watch.first


class _Watch:
    """Follows the calls of layers and keeps the first place with a non-finite value."""

    def __init__(self, model: str) -> None:
        self.first: Origin | None = None
        self._model = model
        self._running: list[str] = []
        self._order = 0

    def attach(self, label: str, module: nn.Module) -> Iterator[Any]:
        def before(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._look(self._caller(), (inputs, named))
            self._running.append(label)

        def after(_module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
            self._running.pop()
            self._look(label, output)

        yield module.register_forward_pre_hook(before, with_kwargs=True)
        yield module.register_forward_hook(after)

    def finish(self, losses: object) -> None:
        """Look at what the forward pass returned."""
        self._look(LOSS_ITSELF, losses)

    def _look(self, name: str, values: object) -> None:
        if self.first is None and not _is_finite(values):
            self.first = Origin(name, self._order)
        self._order += 1

    def _caller(self) -> str:
        # What comes between layers is computed by the one that calls them.
        if self._running:
            return self._running[-1]
        return self._model if self._order else INPUT_IMAGES


def _is_finite(value: object) -> bool:
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_finite(item) for item in value)
    return True
