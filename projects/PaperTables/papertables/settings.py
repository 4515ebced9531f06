"""Settings of an experiment as flat ``KEY: value`` mappings, the keys with dots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Settings = dict[str, Any]


def flat(node: Mapping[str, Any], prefix: str = "") -> Settings:
    """Flatten nested mappings of a YAML file.

    Args:
        node: the mapping, whose values may be mappings.
        prefix: what all keys begin with.

    Returns:
        The values by their dotted keys.
    """
    values: Settings = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values


def changes(then: Settings, now: Settings) -> list[str]:
    """One text ``KEY: then -> now`` for each key whose value differs, in the order of the keys."""
    absent = "(absent)"
    return [
        f"{key}: {then.get(key, absent)} -> {now.get(key, absent)}"
        for key in sorted({*then, *now})
        if then.get(key, absent) != now.get(key, absent)
    ]
