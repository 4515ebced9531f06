"""What a checkpoint holds beside the network, and whether its weights fit."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fastreid.utils.checkpoint import _filter_reused_missing_keys
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metabin_plugin.errors import WeightsError
from metabin_plugin.files import reason
from metabin_plugin.text import shown

# Of fastreid's parameter groups and warm-ups.
_WORDS = {
    "freeze_status": ("normal", "freeze"),
    "warmup_method": ("constant", "linear", "exp"),
}
# Steps that a schedule divides by.
_DIVISORS = ("T_max",)
_COUNTS = ("last_epoch", "_step_count", "freeze_steps")
_MOST_STEPS = 1 << 31
# More milestones at one step than anybody has.
_MOST_AT_ONCE = 1000


# Before every name of a network that was saved inside a data-parallel wrapper.
_WRAPPER = "module."
# Last part of the names that batch-instance normalization adds to those of batch normalization.
_BIN_ONLY = ("gate", "instance_weight", "instance_bias")
# A counter without use at fixed momentum, which files older than PyTorch 0.4.1 do not have.
_OPTIONAL = "num_batches_tracked"
_NAMES_SHOWN = 3


def check_state(holder: Any, state: Any) -> None:
    """Refuse a state that would fail or mislead later than when it is loaded.

    Args:
        holder: an optimizer, schedule or loss scale; whatever else has a state checks it itself, in
            ``load_state_dict``.
        state: of the checkpoint, plain values.

    Raises:
        ValueError: it is not a state of ``holder``; the text names the entry.
    """
    if isinstance(holder, Optimizer):
        _check_optimizer(holder, _mapping(state, "it"))
    elif isinstance(holder, LRScheduler):
        _check_schedule(holder, _mapping(state, "it"))
    elif isinstance(holder, GradScaler):
        _check_loss_scale(holder, _mapping(state, "it"))


def _check_optimizer(optimizer: Optimizer, state: Mapping[Any, Any]) -> None:
    groups, own = state.get("param_groups"), optimizer.param_groups
    if type(groups) is not list or len(groups) != len(own):
        raise ValueError(f"param_groups is not a list of {len(own)} groups")
    expected: dict[int, tuple[Tensor, Mapping[str, Any]]] = {}
    for number, (found, group) in enumerate(zip(groups, own, strict=True)):
        where = f"param_groups[{number}]"
        _check_group(_mapping(found, where), group, where)
        kept = _kept_of_a_parameter(optimizer, found, where)
        expected |= {k: (p, kept) for k, p in zip(found["params"], group["params"], strict=True)}
    for key, found in _mapping(state.get("state"), "state").items():
        where = f"state[{shown(repr(key))}]"
        if key not in expected:
            raise ValueError(f"{where} is of no group")
        _check_kept(_mapping(found, where), *expected[key], where)


def _check_group(found: Mapping[Any, Any], group: Mapping[str, Any], where: str) -> None:
    params = found.get("params")
    if type(params) is not list or len(params) != len(group["params"]):
        raise ValueError(f"{where}.params is not a list of {len(group['params'])} numbers")
    if not all(type(key) is int for key in params):
        raise ValueError(f"{where}.params has other things than whole numbers")
    for key, value in found.items():
        if key != "params":
            _check_like(value, group.get(key), f"{where}.{shown(str(key))}", str(key))
    # Switches that PyTorch has got since are off.
    for key, value in group.items():
        if key not in found and isinstance(value, (int, float, tuple)) and type(value) is not bool:
            raise ValueError(f"{where} has no {key}")


def _kept_of_a_parameter(
    optimizer: Optimizer, group: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """What PyTorch's optimizer of this kind and group keeps of a parameter of one number."""
    kind: Any = next(k for k in type(optimizer).__mro__ if k.__module__.startswith("torch.optim"))
    known = inspect.signature(kind.__init__).parameters
    settings = {k: v for k, v in {**optimizer.defaults, **group}.items() if k in known}
    if kind is Optimizer:
        return {}
    parameter = nn.Parameter(torch.zeros_like(optimizer.param_groups[0]["params"][0].view(-1)[:1]))
    parameter.grad = torch.zeros_like(parameter)
    try:
        trial = kind(**{**settings, "params": [parameter]})
        trial.step()
    # Whatever a combination of settings fails by.
    except Exception as error:
        raise ValueError(f"{where} has settings that do not work ({reason(error)})") from error
    return dict(trial.state[parameter])


def _check_kept(
    found: Mapping[Any, Any], parameter: Tensor, kept: Mapping[str, Any], where: str
) -> None:
    for name, own in kept.items():
        value, entry = found.get(name), f"{where}.{shown(name)}"
        if not isinstance(own, Tensor):
            _check_like(value, own, entry, name)
            continue
        # One number for each of the parameter's, or one in all.
        shapes = (parameter.shape,) if own.ndim else (torch.Size(), torch.Size([1]))
        if not isinstance(value, Tensor) or value.shape not in shapes:
            raise ValueError(f"{entry} is not a tensor of shape {tuple(shapes[0])}")
        if not value.is_floating_point():
            raise ValueError(f"{entry} is of {value.dtype}")


def _check_schedule(schedule: LRScheduler, state: Mapping[Any, Any]) -> None:
    own = schedule.state_dict()
    for key, value in state.items():
        where = shown(str(key))
        if key in own:
            _check_like(value, own[key], where, key)
        elif hasattr(schedule, str(key)) or not _is_plain(value):
            raise ValueError(f"{where} is not a setting of {type(schedule).__name__}")


def _check_loss_scale(scaler: GradScaler, state: Mapping[Any, Any]) -> None:
    # Of a run without one.
    if not state:
        return
    bounds = {
        "scale": (0, math.inf),
        "growth_factor": (1, math.inf),
        "backoff_factor": (0, 1),
        "growth_interval": (0, math.inf),
    }
    for name, (low, high) in bounds.items():
        value = state.get(name)
        if value is None or not _is_number(value) or not low < value < high:
            raise ValueError(f"{name} is not a number between {low} and {high}")
    for name in ("growth_interval", "_growth_tracker"):
        if type(state.get(name)) is not int or state[name] < 0:
            raise ValueError(f"{name} is not a whole number from 0")


def _check_like(value: Any, own: Any, where: str, key: str) -> None:
    """Refuse a value of another kind than the one in its place."""
    if key in _WORDS:
        fits = value in _WORDS[key]
    elif key in _COUNTS:
        fits = type(value) is int and -1 <= value <= _MOST_STEPS
    elif isinstance(own, Counter):
        fits = isinstance(value, Counter) and all(
            type(step) is int and 0 < count <= _MOST_AT_ONCE for step, count in value.items()
        )
    elif isinstance(own, (list, tuple)):
        fits = type(value) is type(own) and len(value) == len(own)
        for number, pair in enumerate(zip(value, own, strict=True) if fits else ()):
            _check_like(*pair, f"{where}[{number}]", key)
    elif isinstance(own, bool):
        fits = type(value) is bool
    elif isinstance(own, (int, float)):
        fits = _is_number(value) and (key not in _DIVISORS or value > 0)
    else:
        fits = _is_plain(value)
    if not fits:
        raise ValueError(f"{where} is {shown(repr(value))}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


def _is_plain(value: Any) -> bool:
    """Whether it is a switch or number, as those that only some versions of PyTorch write."""
    return value is None or type(value) is bool or _is_number(value)


def _mapping(value: Any, where: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is a {type(value).__name__}, not a dict")
    return value


@dataclass(frozen=True)
class Misfit:
    """Parameters and buffers in which a checkpoint and a network differ.

    Attributes:
        missing: names that only the network has.
        surplus: names that only the checkpoint has.
        shapes: names of different shape, with both.
        none_fits: whether they have no name in common at the same shape.
    """

    missing: Sequence[str]
    surplus: Sequence[str]
    shapes: Sequence[str]
    none_fits: bool

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus or self.shapes)

    def __str__(self) -> str:
        parts = [
            _counted(self.missing, "missing from it"),
            _counted(self.surplus, "unknown to the network"),
            _counted(self.shapes, "of another shape"),
        ]
        return "; ".join([*filter(None, parts), *filter(None, [self._cause()])])

    def _cause(self) -> str:
        if self.missing and _all_bin_only(self.missing):
            return (
                "what is missing are gates and instance parameters: it is of a network with "
                "another MODEL.BACKBONE.NORM than this one's batch-instance normalization"
            )
        if self.surplus and _all_bin_only(self.surplus):
            return (
                "what is unknown are gates and instance parameters: it is of a network with batch-"
                "instance normalization, which MODEL.BACKBONE.NORM is not"
            )
        return ""


def network_state(checkpoint: Any, path: str) -> dict[str, Any]:
    """The state dict of the network in a checkpoint.

    Args:
        checkpoint: content of the file.
        path: the file, for the message.

    Returns:
        Parameter or buffer name to tensor; without the prefix of a data-parallel wrapper.

    Raises:
        WeightsError: there is none, or it holds something else than tensors.
    """
    state = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise WeightsError(
            f"{path} is not a checkpoint: it has no entry 'model' with a state dict; save "
            "{'model': network.state_dict()} by torch.save"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: entry {shown(repr(name))} of 'model' is a {type(value).__name__}, where "
                "only tensors can be; save network.state_dict()"
            )
    if all(name.startswith(_WRAPPER) for name in state):
        return {name.removeprefix(_WRAPPER): value for name, value in state.items()}
    return state


def find_misfit(model: nn.Module, state: Mapping[str, Any]) -> Misfit:
    """Compare the names and shapes of a state dict with those of a network.

    Parameters that are empty in the network, as the classifier of one built for evaluation is,
    take nothing and fit any shape. Of a parameter with several names, one is enough.

    Args:
        model: the network.
        state: parameter or buffer name to tensor.

    Returns:
        The differences; false where there are none.
    """
    own = model.state_dict()
    taking = {
        name: value
        for name, value in own.items()
        if isinstance(value, Tensor) and value.numel() > 0
    }
    missing = [name for name in taking if name not in state and not name.endswith(_OPTIONAL)]
    needed = set(_filter_reused_missing_keys(model, missing))
    both = [name for name in taking if name in state]
    fitting = [name for name in both if tuple(taking[name].shape) == tuple(state[name].shape)]
    return Misfit(
        missing=[name for name in missing if name in needed],
        surplus=[name for name in state if name not in own],
        shapes=[
            f"{name} {tuple(state[name].shape)} there, {tuple(taking[name].shape)} here"
            for name in both
            if name not in set(fitting)
        ],
        none_fits=bool(taking) and not fitting,
    )


def _all_bin_only(names: Sequence[str]) -> bool:
    return all(name.rpartition(".")[2] in _BIN_ONLY for name in names)


def _counted(entries: Sequence[str], what: str) -> str:
    if not entries:
        return ""
    first = ", ".join(map(shown, entries[:_NAMES_SHOWN]))
    rest = f", and {len(entries) - _NAMES_SHOWN} more" if len(entries) > _NAMES_SHOWN else ""
    return f"{len(entries)} {what} ({first}{rest})"
