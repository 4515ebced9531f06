"""fastreid trusts a config: of any size, in the locale's encoding, and with what Python raises."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from metabin_plugin.errors import ConfigError
from metabin_plugin.files import reason
from metabin_plugin.text import shown
from metabin_plugin.yaml_text import MAX_DIGITS, read_yaml_file

_BASE = "_BASE_"
# A chain of configs; the longest of fastreid and of this plugin has four.
_MOST_BASES = 20
_URLS = ("http://", "https://")


def repair_config_files() -> None:
    """A config from elsewhere can stop fastreid for ever, crash it, or fetch what it names.

    ``_BASE_`` may lead to a pipe or in a circle, aliases may stand for more than a memory holds, a
    text that looks like a Python value may be nested more deeply than Python's parser bears, and
    ``allow_unsafe`` runs code. The locale's encoding, which need not be UTF-8, changes names.
    """
    from fastreid.config.config import CfgNode

    def decode(cls: type[CfgNode], value: Any) -> Any:
        return _bounded(super(CfgNode, cls)._decode_cfg_value, value)

    # Before, it is that of yacs.
    if "_decode_cfg_value" not in vars(CfgNode):
        CfgNode._decode_cfg_value = classmethod(decode)
        CfgNode.load_yaml_with_base = staticmethod(load_config)


def load_config(filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
    """Read a config file and those it inherits from, as fastreid merges them.

    Args:
        filename: of a YAML file; a name in its ``_BASE_`` starts from its folder, from the user's
            with ``~``, or is absolute.
        allow_unsafe: without effect: no tag makes an object.

    Raises:
        ConfigError: a file cannot be read, is no mapping, or inherits from itself or a URL.
    """
    path = os.fspath(filename)
    layers = [_mapping(path, f"config {shown(path)}")]
    while _BASE in layers[-1]:
        if len(layers) > _MOST_BASES:
            raise ConfigError(
                f"{_BASE} of config {shown(path)} leads back to itself, or through more than "
                f"{_MOST_BASES} files; shorten the chain"
            )
        base = _base_path(layers[-1].pop(_BASE), path)
        layers.append(_mapping(base, f"config {shown(base)}, the {_BASE} of {shown(path)},"))
        path = base
    merged = layers.pop()
    for layer in reversed(layers):
        _merge(layer, merged)
    return merged


def _mapping(path: str, what: str) -> dict[str, Any]:
    try:
        content = read_yaml_file(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{what} cannot be read ({reason(error)}); correct it, or its path"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{what} holds no KEY: VALUE mapping; give one that does")
    return content


def _base_path(base: object, path: str) -> str:
    if not isinstance(base, str) or not base or base.startswith(_URLS):
        raise ConfigError(
            f"{_BASE} of config {shown(path)} is {shown(str(base))}; give the path of a file"
        )
    return os.path.join(os.path.dirname(path), os.path.expanduser(base))


def _merge(layer: dict[str, Any], merged: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and key in merged:
            if not isinstance(merged[key], dict):
                raise ConfigError(
                    f"config key {shown(str(key))} is {shown(str(merged[key]))} in a {_BASE}, "
                    "and holds keys in a file that inherits from it; correct one of them"
                )
            _merge(value, merged[key])
        else:
            merged[key] = value


def _bounded(decode: Callable[[Any], Any], value: Any) -> Any:
    """What a text stands for, as yacs reads it: a Python value, or the text itself."""
    try:
        decoded = decode(value)
    # What Python's parser raises for what is nested too deeply, which is no value of a config.
    except (MemoryError, RecursionError):
        return value
    if _is_long(decoded):
        raise ValueError(f"{shown(str(value))} has a number of more than {MAX_DIGITS} digits")
    return decoded


def _is_long(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_is_long, [*value, *value.values()]))
    if isinstance(value, (list, tuple, set)):
        return any(map(_is_long, value))
    return isinstance(value, int) and abs(value) >= 10**MAX_DIGITS
