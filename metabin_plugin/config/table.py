"""A table of config keys: the name of each, its default, what it may hold, and what it does.

The plugin's table is ``metabin_plugin.config.keys.KEYS``; a project with keys of its own declares
another. Nodes of a config, checks of values and the page of keys are made of such tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol

# fastreid's is derived from it, and cannot be imported before the plugin is registered.
from yacs.config import CfgNode

from metabin_plugin.errors import ConfigError

# Counts and sizes end up in 64-bit integers and in products of two of them.
_LARGEST_COUNT = 2**31 - 1
# Tensors of float32 are made of lists of numbers.
_LARGEST_NUMBER = 3.4e38
# What a value of a type is called.
TYPES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
}


class Rule(Protocol):
    """Which values of its type a key may hold."""

    @property
    def allowed(self) -> str:
        """These values in a few words."""

    def check(self, key: str, value: Any) -> None:
        """Refuse other values.

        Args:
            key: name of the key.
            value: has the type of the key's default.

        Raises:
            ConfigError: the key may not hold this; the sentence says what it may.
        """


@dataclass(frozen=True)
class Key:
    """A config key.

    Attributes:
        name: with the nodes it is in, and dots between.
        default: its value where no config sets it; its type is that of all values.
        rule: which values of this type are allowed; None for all, as True and False.
        comment: what it does, in full sentences or a phrase.
        symbol: what the paper calls it; "" if it has no name there.
    """

    name: str
    default: Any
    rule: Rule | None = None
    comment: str = field(kw_only=True)
    symbol: str = field(kw_only=True, default="")

    @property
    def allowed(self) -> str:
        """The values that it may hold, in a few words."""
        return self.rule.allowed if self.rule else TYPES[type(self.default)]


def add_keys(cfg: CfgNode, keys: Iterable[Key]) -> None:
    """Give a config the keys that it lacks, with their defaults, and the nodes they are in.

    Args:
        cfg: a fastreid config, not frozen; what it holds is kept.
        keys: a table.
    """
    for key in keys:
        *nodes, name = key.name.split(".")
        node = cfg
        for inner in nodes:
            if inner not in node:
                setattr(node, inner, type(cfg)())
            node = node[inner]
        if name not in node:
            setattr(node, name, key.default)


def check_keys(cfg: CfgNode, keys: Iterable[Key]) -> None:
    """Check the values of a table's keys; their types are right.

    Raises:
        ConfigError: a key's value cannot work.
    """
    check_values(cfg, {key.name: key.rule for key in keys if key.rule})


def check_values(cfg: CfgNode, rules: Mapping[str, Rule]) -> None:
    """Check values by a rule for each key; their types are right.

    Args:
        cfg: the config.
        rules: rule by the key's whole name.

    Raises:
        ConfigError: a key's value cannot work.
    """
    for name, rule in rules.items():
        rule.check(name, reduce(CfgNode.__getitem__, name.split("."), cfg))


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
            needed = (
                "further keys below it, like its default"
                if isinstance(default, CfgNode)
                else f"{TYPES[type(default)]}, like {shown_value(default)}"
            )
            raise ConfigError(f"{key} is {shown_value(value)}; give it {needed}")
        if isinstance(default, CfgNode):
            check_types(value, default, f"{key}.")


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


def shown_value(value: object) -> str:
    """A value in one line of at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True)
class Registered:
    """The names in a registry of the plugin, as they are when asked for.

    Attributes:
        registry: its name in ``metabin_plugin.registries``.
    """

    registry: str

    def __call__(self) -> list[str]:
        """Look the names up."""
        # Needs fastreid, which cannot be imported before the plugin is registered.
        from metabin_plugin import registries

        return registries.registered(getattr(registries, self.registry))


Choices = Iterable[str] | Callable[[], Iterable[str]]


def _names(choices: Choices) -> list[str]:
    return list(choices() if callable(choices) else choices)


def _described(choices: Choices) -> str:
    if isinstance(choices, Registered):
        return f"names in {choices.registry}"
    return ", ".join(f'"{name}"' for name in _names(choices))


@dataclass(frozen=True)
class Choice:
    """One of some names.

    Attributes:
        choices: the names, or what gives them when asked.
    """

    choices: Choices

    @property
    def allowed(self) -> str:
        """The names."""
        return _described(self.choices)

    def check(self, key: str, value: Any) -> None:
        """Refuse what is not one of the names."""
        names = _names(self.choices)
        if value not in names:
            raise ConfigError(f"{key} is {shown_value(value)}; choose among {', '.join(names)}")


@dataclass(frozen=True)
class Names:
    """A list of names, none of them twice.

    Attributes:
        choices: what may be in it, or what gives that when asked; None for any names.
        needs_one: whether it may not be empty.
        otherwise: what else to do than to name one, for the sentence about an empty list.
    """

    choices: Choices | None = None
    needs_one: bool = False
    otherwise: str = ""

    @property
    def allowed(self) -> str:
        """The names, and how many are needed."""
        names = "names" if self.choices is None else _described(self.choices)
        return names + (", at least one" if self.needs_one else "")

    def check(self, key: str, value: Any) -> None:
        """Refuse a list with something else, or with a name twice, or one that is too short."""
        if self.needs_one and not value:
            known = "" if self.choices is None else f" of {', '.join(_names(self.choices))}"
            otherwise = self.otherwise and f", or {self.otherwise}"
            raise ConfigError(f"{key} is empty; name at least one{known}{otherwise}")
        for position, name in enumerate(value):
            if self.choices is not None:
                Choice(self.choices).check(key, name)
            if not isinstance(name, str):
                raise ConfigError(f"{key} has {shown_value(name)}; list names only")
            if name in value[:position]:
                raise ConfigError(f"{key} has {shown_value(name)} twice; name it once")


@dataclass(frozen=True)
class Count:
    """A whole number in [low, high]."""

    low: int
    high: int = _LARGEST_COUNT

    @property
    def allowed(self) -> str:
        """The interval."""
        return _interval(self.low, math.inf if self.high == _LARGEST_COUNT else self.high)

    def check(self, key: str, value: Any) -> None:
        """Refuse a fraction, and what is outside the interval."""
        if type(value) is not int:
            raise ConfigError(f"{key} is {shown_value(value)}; give it a whole number")
        _check_interval(key, value, self.low, self.high)


@dataclass(frozen=True)
class Number:
    """A finite number in [low, high]."""

    low: float
    high: float = math.inf

    @property
    def allowed(self) -> str:
        """The interval."""
        return _interval(self.low, self.high)

    def check(self, key: str, value: Any) -> None:
        """Refuse infinity and NaN, and what is outside the interval."""
        # Python compares whole numbers of any size, but cannot convert all of them.
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key} is {value!r}; give it a finite number")
        _check_interval(key, value, self.low, self.high)


@dataclass(frozen=True)
class Numbers:
    """A list of ``count`` finite numbers above ``above``."""

    count: int
    above: float = -math.inf

    @property
    def allowed(self) -> str:
        """How many, and above what."""
        limit = "" if self.above == -math.inf else f" above {self.above:g}"
        return f"{self.count} finite numbers{limit}"

    def check(self, key: str, value: Any) -> None:
        """Refuse a list of another length, or with something else in it."""
        if len(value) != self.count or not all(map(self._has, value)):
            raise ConfigError(f"{key} is {shown_value(value)}; give it {self.allowed}")

    def _has(self, value: Any) -> bool:
        return (
            isinstance(value, (int, float)) and self.above < value and abs(value) <= _LARGEST_NUMBER
        )


def _interval(low: float, high: float) -> str:
    if high == math.inf:
        return f"{low} or more"
    return f"{low} to {high if isinstance(high, int) else f'{high:.2g}'}"


def _check_interval(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        limit = "" if high == math.inf else f" and at most {high}"
        raise ConfigError(f"{key} is {shown_value(value)}; it must be at least {low}{limit}")
