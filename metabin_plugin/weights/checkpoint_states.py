"""States of optimizers, schedules and loss scales, checked before they are loaded."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

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
