"""Stopping a training whose numbers went wrong, with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastreid.engine import DefaultTrainer
from fastreid.utils import comm
from fastreid.utils.events import EventStorage
from torch import nn

from metabin_plugin.engine.activations import (
    INPUT_IMAGES,
    Place,
    first_nonfinite,
    nonfinite_names,
)
from metabin_plugin.engine.network_options import uncompiled
from metabin_plugin.errors import NonFiniteError

# Below it, a gradient that is not finite is none because of the loss scale.
LOWEST_LOSS_SCALE = 1.0
_BEFORE_ALL_LAYERS = -1


@dataclass(frozen=True)
class Fault:
    """A number that is not finite.

    Attributes:
        what: the number, e.g. "the loss".
        terms: the losses of the step, by name in the log.
        remedy: what to do when neither images nor weights are the cause.
    """

    what: str
    terms: Mapping[str, float]
    remedy: str


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
                _remedy(place, fault.remedy),
            )
            if part
        )
    )


def require_finite_weights(trainer: DefaultTrainer) -> None:
    """Refuse to make a checkpoint of a network that training has spoilt.

    A step may have finite gradients and yet overflow the weights, or the running statistics, which
    shows in a loss only later.

    Args:
        trainer: the trainer.

    Raises:
        NonFiniteError: a parameter or a running statistic of the network is not finite.
    """
    floating = {
        name: tensor
        for name, tensor in trainer.model.state_dict().items()
        if tensor.is_floating_point()
    }
    for name in nonfinite_names(floating)[:1]:
        raise NonFiniteError(
            f"{name} is not finite at iteration {trainer.iter}, so no checkpoint was made; "
            f"{_checkpoint(trainer)}; lower SOLVER.BASE_LR or lengthen SOLVER.WARMUP_ITERS"
        )


def _place(model: nn.Module, forward: Callable[[], object]) -> Place | None:
    for weight in nonfinite_names(dict(model.named_parameters()))[:1]:
        return Place(weight, _BEFORE_ALL_LAYERS)
    return first_nonfinite(model, lambda: uncompiled(forward))


def _distance_from_fault(report: tuple[Place | None, dict[str, float]]) -> tuple[float, bool]:
    place, terms = report
    # With synchronized statistics it spreads to all processes, but arises in one of them earlier.
    order = math.inf if place is None else place.order
    return order, all(map(math.isfinite, terms.values()))


def _reason(place: Place | None, what: str) -> str:
    if place is None:
        return "the activations of all layers are finite, so it arose in the " + (
            "backward pass" if "gradient" in what else "loss itself"
        )
    if place.order == _BEFORE_ALL_LAYERS:
        return f"the parameter {place.name} was not finite before this step"
    if place.name == INPUT_IMAGES:
        return f"{INPUT_IMAGES} are not finite"
    return f"the first layer with non-finite activations is {place.name}"


def _remedy(place: Place | None, remedy: str) -> str:
    if place is not None and place.name == INPUT_IMAGES:
        return "look at the images of this batch and at the INPUT keys"
    if place is not None and place.order == _BEFORE_ALL_LAYERS:
        return f"check MODEL.WEIGHTS, or go on from a sound checkpoint and {remedy}"
    return remedy


def _split(trainer: DefaultTrainer) -> str:
    hooks = [hook for hook in trainer._hooks if hasattr(hook, "split")]
    if not hooks:
        return ""
    train, test = (", ".join(map(str, side)) for side in hooks[0].split(trainer.iter))
    return f"meta-train domains {train}, meta-test domains {test}"


def _checkpoint(trainer: DefaultTrainer) -> str:
    last = trainer.checkpointer.get_checkpoint_file()
    return f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
