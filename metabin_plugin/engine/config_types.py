"""Finding config values of the wrong type, which YAML and Python both let through."""

from __future__ import annotations

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
                f"{key} is {shown(value)}; give it {_NAMES[type(default)]}, like "
                f"{'its default' if isinstance(default, CfgNode) else shown(default)}"
            )
        if isinstance(default, CfgNode):
            check_types(value, default, f"{key}.")


def shown(value: object) -> str:
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
