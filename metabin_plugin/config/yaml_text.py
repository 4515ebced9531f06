"""Reading YAML that may come from elsewhere: plain values alone, of a bounded size."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import yaml

from metabin_plugin.files import open_regular

# A whole config of fastreid has 10 kB, 300 values and four levels.
MAX_BYTES = 1 << 18
MAX_VALUES = 100_000
MAX_CHARACTERS = 1 << 20
MAX_LEVELS = 20
MAX_DIGITS = 100

# Not the parser in C, which is ten times as fast: deep nesting overruns its stack.
_Loader = yaml.SafeLoader
_NUMBERS = frozenset(["tag:yaml.org,2002:int", "tag:yaml.org,2002:float"])


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
        ValueError: it is not YAML, has a tag of other objects, is larger than ``MAX_BYTES``, or
            stands for more than ``MAX_VALUES`` values or ``MAX_CHARACTERS`` characters; or it
            contains itself, has more than ``MAX_LEVELS`` levels, or a number of more than
            ``MAX_DIGITS`` digits. Its text is one line.
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


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return []
