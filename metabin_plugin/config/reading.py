"""Reading a config: YAML that may come from elsewhere, files and KEY VALUE pairs.

Of YAML plain values alone are read, of a bounded size.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

# fastreid's is derived from it, and cannot be imported before the plugin is registered.
from yacs.config import CfgNode

from metabin_plugin.config.table import TYPES, check_types, shown_value
from metabin_plugin.errors import ConfigError
from metabin_plugin.files import open_regular, reason
from metabin_plugin.repository import recipe_path
from metabin_plugin.text import shown

# A whole config of fastreid has 10 kB, 300 values and four levels.
MAX_BYTES = 1 << 18
MAX_VALUES = 100_000
MAX_CHARACTERS = 1 << 20
MAX_LEVELS = 20
MAX_DIGITS = 100

# Not the parser in C, which is ten times as fast: deep nesting overruns its stack.
_Loader = yaml.SafeLoader
_NUMBERS = frozenset(["tag:yaml.org,2002:int", "tag:yaml.org,2002:float"])
_MERGE = "tag:yaml.org,2002:merge"
_BASE = "_BASE_"
# A chain of configs; the longest of fastreid and of this plugin has four.
_MOST_BASES = 20
_URLS = ("http://", "https://")
_IN_BRACKETS = re.compile(r"[(\[](?P<names>[^()\[\]]*)[)\]]")
# What yacs says of a value of another type than the key's.
_MISMATCH = re.compile(
    r"Type mismatch \(<class '([\w.]+\.)?(?P<needed>\w+)'> vs\. <class '[\w.]+'>\) with values "
    r"\((?P<default>.*) vs\. (?P<value>.*)\) for config key: (?P<key>\S+)"
)
_NO_KEY = re.compile(r"Non-existent (config )?key: (?P<key>\S+)")
# What is in front of a file on the command line, by the suffix of its name.
_IN_FRONT = {".yml": "--config-file", ".yaml": "--config-file", ".pth": "MODEL.WEIGHTS"}


def read_config(config_file: str, options: Sequence[str]) -> CfgNode:
    """fastreid's defaults, changed by a file and then by KEY VALUE pairs.

    Args:
        config_file: path of a YAML file, or "" for none.
        options: keys and values in turn, as on the command line; names of a list need neither
            brackets nor quotes (``DATASETS.NAMES north.csv,south.csv``), numbers no decimal point
            (``SOLVER.BASE_LR 1``), and a text that is a number no quotes (``OUTPUT_DIR 2024``).

    Raises:
        ConfigError: the file or a pair cannot be read, a key does not exist, or a value has
            another type than the key.
    """
    from fastreid.config import get_cfg

    cfg = get_cfg()
    options = list(options)
    try:
        if config_file:
            cfg.merge_from_file(config_file)
        _check_pairs(options, cfg)
        cfg.merge_from_list(_as_keys_need(options, cfg))
    # Its sentence names the file, which may be one that config_file inherits from.
    except ConfigError:
        raise
    # What a malformed file makes of fastreid and yacs has no common type: a list in place of a
    # mapping alone raises AttributeError, TypeError or ValueError, depending on where it is.
    except Exception as error:
        file = f"--config-file {shown(config_file)}" if config_file else ""
        pairs = f"KEY VALUE pairs {shown(' '.join(options))}" if options else ""
        raise ConfigError(
            f"{' with '.join(filter(None, (file, pairs)))}: {_reason(error, cfg)}; correct the "
            "file or the KEY VALUE pairs"
        ) from error
    check_types(cfg, get_cfg())
    return cfg


def _check_pairs(options: Sequence[str], cfg: CfgNode) -> None:
    """Refuse words that are no keys and values in turn.

    Raises:
        ConfigError: a pair is one word, a file is in the place of a key, or a value is missing.
    """
    for word in options[::2]:
        key, sign, value = word.partition("=")
        if sign and _value(cfg, key) is not None:
            raise ConfigError(
                f"{shown(repr(word))} is one word, but a key and its value are two; give "
                f"{key} {shown(value)}"
            )
        in_front = _IN_FRONT.get(os.path.splitext(word)[1].lower())
        if in_front:
            raise ConfigError(
                f"{shown(repr(word))} is a file in the place of a key; give {in_front} "
                f"{shown(word)}"
            )
    if len(options) % 2:
        raise ConfigError(
            f"KEY VALUE pairs {shown(' '.join(options))} end on {shown(repr(options[-1]))}, which "
            "has no value; add it, or take out the word that is too many"
        )


def _as_keys_need(options: Sequence[str], cfg: CfgNode) -> list[str]:
    """The options with values of the types that their keys need, where it is clear what is meant.

    Names become lists, whole numbers floats, and numbers texts.
    """
    words = list(options)
    for number in range(1, len(words), 2):
        default = _value(cfg, words[number - 1])
        typed = _literal(words[number])
        # What Python reads as a list, or as anything but a text, is left to yacs.
        if _has_names(default) and isinstance(typed, str):
            words[number] = repr(type(default)(_names(typed)))
        elif isinstance(default, float) and type(typed) is int:
            words[number] = repr(float(typed))
        elif isinstance(default, str) and type(typed) in (int, float):
            words[number] = repr(words[number])
    return words


def _names(text: str) -> list[str]:
    # Of '("a", "b",)' between double quotes a shell leaves the brackets, and no quotes inside.
    inside = _IN_BRACKETS.fullmatch(text.strip())
    listed = (inside["names"] if inside else text).strip().removesuffix(",")
    return [name.strip() for name in listed.split(",")]


def _has_names(default: Any) -> bool:
    """Whether a key's value is a list that is not one of numbers."""
    return isinstance(default, (list, tuple)) and all(isinstance(entry, str) for entry in default)


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


# What a type is called, by its name.
_NAMED = {kind.__name__: name for kind, name in TYPES.items()}


def _reason(error: Exception, cfg: CfgNode) -> str:
    if isinstance(error, (AttributeError, TypeError)):
        return "the file, or a key of it, holds no KEY: VALUE mapping where one is needed"
    mismatch = _MISMATCH.fullmatch(" ".join(str(error).split()))
    if mismatch and mismatch["needed"] == CfgNode.__name__:
        value = shown(mismatch["value"])
        return f"{mismatch['key']} is {value}, but it is a section, which holds keys below it"
    if mismatch:
        key, value, default = (shown(mismatch[name]) for name in ("key", "value", "default"))
        return f"{key} is {value}, but takes {_NAMED[mismatch['needed']]}, like {default}"
    # A KeyError's text is the representation of its message; YAML's texts have several lines.
    text = error.args[0] if isinstance(error, KeyError) else error
    return shown(" ".join(str(text).split())) + _like(str(text), cfg)


def _like(text: str, cfg: CfgNode) -> str:
    """Part of a sentence that names the key most like one that there is not."""
    missing = _NO_KEY.fullmatch(text)
    if not missing:
        return ""
    keys = list(flat(cfg))
    sections = {key[:end] for key in keys for end, sign in enumerate(key) if sign == "."}
    close = difflib.get_close_matches(missing["key"], [*keys, *sorted(sections)], n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config by their full names.

    Args:
        node: the config, or a section of it.
        prefix: name of the section, with a dot behind it.
    """
    values: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[prefix + key] = value
    return values


def load_config(filename: str) -> dict[str, Any]:
    """Read a config file and those it inherits from, as fastreid merges them.

    The files are UTF-8, and one that cannot be read safely is refused with a sentence.

    Args:
        filename: of a YAML file; a name in its ``_BASE_`` starts from its folder, from the user's
            with ``~``, or is absolute. Where there is no other file of this name, it is that of a
            recipe, as with ``--config``.

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
        merged = _merged(layer, merged)
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
            f"{_BASE} of config {shown(path)} is {shown_value(base)}; give the path of a file"
        )
    file = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    is_another = os.path.exists(file) and not os.path.samefile(file, path)
    return file if is_another else recipe_path(base) or file


def _merged(layer: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """A layer over its base, neither of which is changed: aliases may share parts of them."""
    merged = dict(base)
    for key, value in layer.items():
        if isinstance(value, dict) and key in base:
            if not isinstance(base[key], dict):
                raise ConfigError(
                    f"config key {shown(str(key))} is {shown_value(base[key])} in a {_BASE}, "
                    "and holds keys in a file that inherits from it; correct one of them"
                )
            merged[key] = _merged(value, base[key])
        else:
            merged[key] = value
    return merged


def read_yaml_file(path: str | os.PathLike[str]) -> Any:
    """Parse a file as ``read_yaml`` does, in UTF-8 whatever the locale.

    Args:
        path: of a regular file.

    Raises:
        OSError: it cannot be opened, or is a folder, pipe, socket or device.
        ValueError: see ``read_yaml``.
    """
    with open_regular(path) as file:
        return read_yaml(file.read(MAX_BYTES + 1))


def read_yaml(text: str | bytes) -> Any:
    """Parse YAML into mappings, lists, texts, numbers, booleans, dates and None.

    A few lines of aliases can stand for more values than a memory holds, so values are counted
    before any is made.

    Args:
        text: one document; bytes are UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is not YAML, has a tag of other objects or a key twice, is larger than
            ``MAX_BYTES``, or stands for more than ``MAX_VALUES`` values or ``MAX_CHARACTERS``
            characters; or it contains itself, has more than ``MAX_LEVELS`` levels, or a number of
            more than ``MAX_DIGITS`` digits. Its text is one line.
    """
    size = len(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes of YAML, which is as much as is read")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _extent(node, {})
        return loader.construct_document(node)
    except RecursionError as error:
        raise ValueError("YAML that is nested too deeply") from error
    # What a value with another value's tag makes of PyYAML has no common type.
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(what if isinstance(error, ValueError) else f"not YAML: {what}") from error
    finally:
        if loader is not None:
            loader.dispose()


class _Extent(NamedTuple):
    """How much a node stands for, with aliases resolved."""

    values: int
    characters: int
    levels: int


def _extent(node: yaml.Node, known: dict[int, _Extent | None]) -> _Extent:
    """Measure a node, and refuse what is too much."""
    if id(node) in known:
        extent = known[id(node)]
        if extent is None:
            raise ValueError("YAML that contains itself")
        return extent
    known[id(node)] = None
    scalar = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
    if node.tag in _NUMBERS and scalar > MAX_DIGITS:
        raise ValueError(f"a number of {scalar:,} digits")
    if isinstance(node, yaml.MappingNode):
        _refuse_repeated_key(node)
    parts = [_extent(part, known) for part in _parts(node)]
    extent = _Extent(
        1 + sum(part.values for part in parts),
        scalar + sum(part.characters for part in parts),
        1 + max((part.levels for part in parts), default=0),
    )
    most = _Extent(MAX_VALUES, MAX_CHARACTERS, MAX_LEVELS)
    for what, count, limit in zip(_Extent._fields, extent, most, strict=True):
        if count > limit:
            raise ValueError(f"YAML that stands for more than {limit:,} {what}")
    known[id(node)] = extent
    return extent


def _refuse_repeated_key(node: yaml.MappingNode) -> None:
    """Refuse a mapping of which PyYAML would drop all but the last of a key's values."""
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        # Several mappings may be merged into one.
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in lines:
            raise ValueError(
                f"the key {shown(repr(key.value))} in line {lines[name]} and again in line {line}"
            )
        lines[name] = line


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return []
