"""Reading YAML that may come from elsewhere: plain values alone, of a bounded size."""

from __future__ import annotations

from typing import Any

import yaml

# A whole config of fastreid has 10 kB and 300 values.
MAX_BYTES = 1 << 18
MAX_VALUES = 100_000

# Not the parser in C, which is ten times as fast: deep nesting overruns its stack.
_Loader = yaml.SafeLoader


def read_yaml(text: str | bytes) -> Any:
    """Parse YAML into mappings, lists, texts, numbers, booleans, dates and None.

    A few lines of aliases can stand for more values than a memory holds, so values are counted
    before any is made.

    Args:
        text: one document.

    Raises:
        ValueError: it is not YAML, has a tag of other objects, is larger than ``MAX_BYTES``, stands
            for more than ``MAX_VALUES`` values, contains itself, or is nested too deeply. Its text
            is one line.
    """
    size = len(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes of YAML, where at most {MAX_BYTES:,} are read")
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None and _count(node, {}) > MAX_VALUES:
            raise ValueError(f"YAML that stands for more than {MAX_VALUES:,} values")
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("YAML that is nested too deeply") from error


def _count(node: Any, counted: dict[int, int | None]) -> int:
    """Number of values that a node stands for, with its aliases resolved."""
    known = counted.get(id(node), 0)
    if known is None:
        raise ValueError("YAML that contains itself")
    if known:
        return known
    counted[id(node)] = None
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_count(value, counted) for value in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_count(part, counted) for pair in node.value for part in pair)
    counted[id(node)] = total
    return total
