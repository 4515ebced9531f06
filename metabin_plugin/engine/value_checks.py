"""Checks of single config values; each raises a sentence with the key, its value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from metabin_plugin.engine.config_types import shown
from metabin_plugin.errors import ConfigError

# Counts and sizes end up in 64-bit integers and in products of two of them.
LARGEST_COUNT = 2**31 - 1
_LARGEST_NUMBER = 3.4e38


def check_choice(key: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices."""
    names = list(choices)
    if value not in names:
        raise ConfigError(f"{key} is {shown(value)}; choose among {', '.join(names)}")


def check_names(key: str, names: Sequence[object], choices: Iterable[str] | None = None) -> None:
    """Refuse a list with something else than texts, with a repetition, or with none of the choices.

    Args:
        key: the config key.
        names: its value.
        choices: what may be in it; None for any text.
    """
    known = None if choices is None else list(choices)
    for position, name in enumerate(names):
        if known is not None:
            check_choice(key, name, known)
        if not isinstance(name, str):
            raise ConfigError(f"{key} has {shown(name)}; list names only")
        if name in names[:position]:
            raise ConfigError(f"{key} has {shown(name)} twice; name it once")


def check_count(key: str, value: object, low: int, high: int = LARGEST_COUNT) -> None:
    """Refuse what is no whole number in [low, high]."""
    if type(value) is not int:
        raise ConfigError(f"{key} is {shown(value)}; give it a whole number")
    _check_range(key, value, low, high)


def check_number(key: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse what is no finite number in [low, high]."""
    # Python compares whole numbers of any size, but cannot convert all of them.
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} is {value}; give it a finite number")
    _check_range(key, value, low, high)


def check_numbers(key: str, values: Sequence[object], count: int, low: float) -> None:
    """Refuse a list of anything else than ``count`` finite numbers above ``low``."""
    if len(values) != count or not all(_is_number(value, low) for value in values):
        above = "" if low == -math.inf else f" above {low:g}"
        raise ConfigError(f"{key} is {shown(values)}; give it {count} finite numbers{above}")


def _is_number(value: object, low: float) -> bool:
    # Tensors of float32 are made of them.
    return isinstance(value, (int, float)) and low < value and abs(value) <= _LARGEST_NUMBER


def _check_range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        limit = "" if high == math.inf else f" and at most {high}"
        raise ConfigError(f"{key} is {shown(value)}; it must be at least {low}{limit}")
