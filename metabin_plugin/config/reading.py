"""Reading a config from a file and KEY VALUE pairs."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from fastreid.config import CfgNode, get_cfg

from metabin_plugin.config.table import check_types
from metabin_plugin.errors import ConfigError
from metabin_plugin.text import shown

# What yacs says of a value of another type than the key's.
_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?P<needed>\w+)'> vs\. <class '\w+'>\) with values "
    r"\((?P<default>.*) vs\. (?P<value>.*)\) for config key: (?P<key>\S+)"
)


def read_config(config_file: str, options: Sequence[str]) -> CfgNode:
    """fastreid's defaults, changed by a file and then by KEY VALUE pairs.

    Args:
        config_file: path of a YAML file, or "" for none.
        options: keys and values in turn, as on the command line; names of a list need neither
            brackets nor quotes (``DATASETS.NAMES north.csv,south.csv``), and numbers no decimal
            point (``SOLVER.BASE_LR 1``).

    Raises:
        ConfigError: the file or a pair cannot be read, a key does not exist, or a value has
            another type than the key.
    """
    cfg = get_cfg()
    options = list(options)
    try:
        if config_file:
            cfg.merge_from_file(config_file)
        cfg.merge_from_list(_as_keys_need(options, cfg))
    # Its sentence names the file, which may be one that config_file inherits from.
    except ConfigError:
        raise
    # What a malformed file makes of fastreid and yacs has no common type: a list in place of a
    # mapping alone raises AttributeError, TypeError or ValueError, depending on where it is.
    except Exception as error:
        raise ConfigError(
            f"--config-file {shown(config_file)} with "
            f"{shown(' '.join(options)) or 'no further keys'}: "
            f"{_reason(error)}; correct the file or the KEY VALUE pairs"
        ) from error
    check_types(cfg, get_cfg())
    return cfg


def _as_keys_need(options: Sequence[str], cfg: CfgNode) -> list[str]:
    """The options with names as lists and whole numbers as floats, where their keys need that."""
    words = list(options)
    for number in range(1, len(words), 2):
        default = _value(cfg, words[number - 1])
        typed = _literal(words[number])
        # What Python reads as a list, or as anything but a text, is left to yacs.
        if isinstance(default, tuple) and isinstance(typed, str):
            words[number] = repr(tuple(name.strip() for name in typed.split(",")))
        elif isinstance(default, float) and type(typed) is int:
            words[number] = repr(float(typed))
    return words


def _value(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for name in key.split("."):
        value = value.get(name) if isinstance(value, CfgNode) else None
    return value


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return word


def _reason(error: Exception) -> str:
    if isinstance(error, (AttributeError, TypeError)):
        return "the file, or a key of it, holds no KEY: VALUE mapping where one is needed"
    mismatch = _MISMATCH.fullmatch(" ".join(str(error).split()))
    if mismatch:
        return "{key} is {value}, but takes a {needed}, as {default} is".format(
            **{name: shown(text) for name, text in mismatch.groupdict().items()}
        )
    # A KeyError's text is the representation of its message; YAML's texts have several lines.
    text = error.args[0] if isinstance(error, KeyError) else error
    return shown(" ".join(str(text).split()))
