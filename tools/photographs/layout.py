"""How the path of a photograph says who is on it, by which camera and where."""

from __future__ import annotations

import re
from typing import NamedTuple

from metabin_plugin.errors import DatasetError

FIELDS = ("domain", "camera", "identity", "subset")
_TOKEN = re.compile(r"(\{[^{}]*\}|\*)")
_TEXT = "[^/]+?"
_NUMBER = r"(?<!\d)\d+(?!\d)"
_ANYTHING = "[^/]*?"


class Labels(NamedTuple):
    """What a path says; "" where its layout has no such field.

    Attributes:
        domain: name of the domain.
        camera: name of the camera, within its domain.
        identity: name of the identity, within its domain.
        subset: name of the folder, or whatever the layout has in its place.
    """

    domain: str
    camera: str
    identity: str
    subset: str


class Layout:
    """A pattern of paths: ``{camera}/{identity}/*``.

    ``{domain}``, ``{camera}``, ``{identity}`` and ``{subset}`` stand for names and ``*`` for
    anything, all within one folder or file name; everything else stands for itself. A name is as
    short as it can be. Beside a ``*``, which leaves open where it ends, it is a whole number:
    ``{identity}_c{camera}*`` reads camera 12 from ``7_c12s1.jpg``. A name that occurs twice must be
    the same in both places.

    Args:
        pattern: with ``{identity}``, and ``/`` between folders.

    Attributes:
        fields: names in the pattern, in their order.
        subset_depth: how many folders are above that of ``{subset}``; -1 without such a folder.

    Raises:
        DatasetError: it has no ``{identity}``, another field, or two fields without text between.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        tokens = [token for token in _TOKEN.split(pattern) if token]
        self.fields = tuple(token[1:-1] for token in tokens if token[0] == "{")
        unknown = [field for field in self.fields if field not in FIELDS]
        if unknown or "identity" not in self.fields:
            fault = f"has the field {{{unknown[0]}}}" if unknown else "has no {identity}"
            raise self._fault(fault, f"its fields are {', '.join(f'{{{f}}}' for f in FIELDS)}")
        if re.search(r"\}\{", pattern):
            raise self._fault("has two fields without text between them", "put what is there")
        parts = pattern.split("/")[:-1]
        self.subset_depth = parts.index("{subset}") if "{subset}" in parts else -1
        self._expression = re.compile(_expression(tokens), re.DOTALL)

    def __str__(self) -> str:
        return self.pattern

    def read(self, path: str) -> Labels | None:
        """Labels of a path with ``/`` between folders; None if it has another layout."""
        match = self._expression.fullmatch(path)
        if match is None:
            return None
        return Labels(*(match.groupdict().get(field, "") for field in FIELDS))

    def _fault(self, fault: str, remedy: str) -> DatasetError:
        return DatasetError(f"--layout {self.pattern} {fault}; {remedy}.")


def _expression(tokens: list[str]) -> str:
    parts: list[str] = []
    for number, token in enumerate(tokens):
        beside = tokens[max(number - 1, 0) : number + 2]
        if token == "*":
            parts.append(_ANYTHING)
        elif token[0] != "{":
            parts.append(re.escape(token))
        elif token in tokens[:number]:
            parts.append(f"(?P={token[1:-1]})")
        else:
            parts.append(f"(?P<{token[1:-1]}>{_NUMBER if '*' in beside else _TEXT})")
    return "".join(parts)
