"""Checks of one value of a config: its type, its range, its choices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from fastreid.config import CfgNode

from metabin_plugin.errors import ConfigError

_NAMES = {
    CfgNode: "further keys below it",
    bool: "True or False",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
}


def check_types(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> None:
    """Check that every key holds what its default is: keys, a truth value, number, text or list.

    yacs takes None (an empty value in YAML) for any key, and an assignment in Python anything.

    Args:
        cfg: the config; keys that the defaults lack are not looked at.
        defaults: a config with a value of the right type for every key.
        prefix: what the keys' names begin with in the error texts.

    Raises:
        ConfigError: a key is missing or holds another type.
    """
    for name, default in defaults.items():
        key = prefix + name
        value = cfg.get(name)
        if not _fits(value, default):
            raise ConfigError(
                f"{key} is {shown_value(value)}; give it {_NAMES[type(default)]}, like "
                f"{'its default' if isinstance(default, CfgNode) else shown_value(default)}"
            )
        if isinstance(default, CfgNode):
            check_types(value, default, f"{key}.")


def shown_value(value: object) -> str:
    """A value in one line of at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, CfgNode):
        return isinstance(value, CfgNode)
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float))
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple))
    return isinstance(value, type(default))


# Counts and sizes end up in 64-bit integers and in products of two of them.
LARGEST_COUNT = 2**31 - 1
_LARGEST_NUMBER = 3.4e38


def check_choice(key: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices."""
    names = list(choices)
    if value not in names:
        raise ConfigError(f"{key} is {shown_value(value)}; choose among {', '.join(names)}")


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
            raise ConfigError(f"{key} has {shown_value(name)}; list names only")
        if name in names[:position]:
            raise ConfigError(f"{key} has {shown_value(name)} twice; name it once")


def check_count(key: str, value: object, low: int, high: int = LARGEST_COUNT) -> None:
    """Refuse what is no whole number in [low, high]."""
    if type(value) is not int:
        raise ConfigError(f"{key} is {shown_value(value)}; give it a whole number")
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
        raise ConfigError(f"{key} is {shown_value(values)}; give it {count} finite numbers{above}")


def _is_number(value: object, low: float) -> bool:
    # Tensors of float32 are made of them.
    return isinstance(value, (int, float)) and low < value and abs(value) <= _LARGEST_NUMBER


def _check_range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        limit = "" if high == math.inf else f" and at most {high}"
        raise ConfigError(f"{key} is {shown_value(value)}; it must be at least {low}{limit}")
