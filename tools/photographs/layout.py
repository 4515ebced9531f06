"""How the path of a photograph says who is on it, by which camera and where."""

from __future__ import annotations

import re
from typing import NamedTuple

from metabin_plugin.errors import DatasetError

FIELDS = ("domain", "camera", "identity", "subset")
# Folders of data sets in the form of Market-1501, and of training sets in general.
SUBSET_FOLDERS = {
    "train": "train",
    "bounding_box_train": "train",
    "query": "query",
    "gallery": "gallery",
    "bounding_box_test": "gallery",
    "test": "test",
}
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
        subset: a subset of manifests.
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
        self._expression = re.compile(_expression(tokens), re.DOTALL)

    def __str__(self) -> str:
        return self.pattern

    def read(self, path: str) -> Labels | None:
        """Labels of a path with ``/`` between folders; None if it has another layout.

        Raises:
            DatasetError: its folder of ``{subset}`` is none of ``SUBSET_FOLDERS``.
        """
        match = self._expression.fullmatch(path)
        if match is None:
            return None
        labels = Labels(*(match.groupdict().get(field, "") for field in FIELDS))
        if "subset" not in self.fields:
            return labels
        try:
            return labels._replace(subset=SUBSET_FOLDERS[labels.subset])
        except KeyError:
            raise DatasetError(
                f'Image {path} is in "{labels.subset}", which is no {{subset}}; name one of '
                f"{', '.join(SUBSET_FOLDERS)}, or leave it out by --exclude."
            ) from None

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
