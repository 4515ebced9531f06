"""How a folder of photographs is laid out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from metabin_plugin.errors import DatasetError
from metabin_plugin.text import shown

FIELDS = ("domain", "camera", "identity", "subset")
_TOKEN = re.compile(r"(\{[^{}]*\}|\*)")
_TEXT = "[^/]+?"
_NUMBER = r"(?<!\d)\d+(?!\d)"
_ANYTHING = "[^/]*?"


TRAIN, QUERY, GALLERY, TEST, VALIDATION = "train", "query", "gallery", "test", "val"
# In any case, with or without signs between the words. The longer names are Market-1501's, VeRi's,
# and those of scripts that sort their images anew.
NAMES = {
    TRAIN: ("train", "training", "bounding_box_train", "image_train", "train_all", "trainval"),
    QUERY: ("query", "queries", "probe", "image_query"),
    GALLERY: ("gallery", "bounding_box_test", "image_test"),
    TEST: ("test", "testing"),
    VALIDATION: ("val", "valid", "validation"),
}
_USE = {re.sub("_", "", name): use for use, names in NAMES.items() for name in names}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


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
        return DatasetError(f"--layout {self.pattern} {fault}; {remedy}")


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


def path_from(folder: Path, target: Path) -> str:
    """The path that leads from a folder to a target, with ``/`` between folders.

    Args:
        folder: where the path is to start; it need not exist yet.
        target: what the path is to lead to.

    Returns:
        The relative path; an absolute one where there is none, to another drive.
    """
    try:
        path = os.path.relpath(target, folder)
        if os.pardir in (*Path(path).parts, *target.parts, *folder.parts):
            # The operating system goes up from where a link leads to, not from where it is.
            path = os.path.relpath(os.path.realpath(target), os.path.realpath(folder))
    except ValueError:
        path = os.path.realpath(target)
    return Path(path).as_posix()


def use_of(folder: str) -> str:
    """What a folder is for, a key of ``NAMES``; "" if its name does not say so."""
    return _USE.get(re.sub(r"[ _-]", "", folder).casefold(), "")


def are_subsets(folders: Iterable[str]) -> bool:
    """Whether folders beside each other are subsets: one to train on and one to test with.

    Other folders may be beside them. Two to test with, queries and what they are looked for in,
    will do as well.
    """
    return _are_subsets({use_of(folder) for folder in folders})


def look_like_subsets(folders: Iterable[str]) -> bool:
    """Whether names of folders have the words of subsets in them: ``train_v2`` and ``test_v2``."""
    words = {word for folder in folders for word in _WORD.findall(folder)}
    return _are_subsets({use_of(word) for word in words})


def subsets_of(folders: Iterable[str]) -> dict[str, str]:
    """The subset of manifests that each of some folders beside each other is.

    Images of ``test`` are the gallery where there are queries. Validation images are trained on,
    as MSMT17's protocol does, where there is anything else to test with; else they are the test.

    Args:
        folders: their names; others than those of subsets are left out.

    Raises:
        DatasetError: two folders are for the same, or cannot be beside each other.
    """
    folder_of: dict[str, str] = {}
    for folder in sorted(set(folders)):
        use = use_of(folder)
        if use in folder_of:
            raise _ask(folder_of[use], folder, f"are both called as {use} images")
        if use:
            folder_of[use] = folder
    if {TEST, GALLERY} <= folder_of.keys():
        what = "are both called as the images to find people in"
        raise _ask(folder_of[GALLERY], folder_of[TEST], what)
    tests = folder_of.keys() & {QUERY, GALLERY, TEST}
    subset = {TEST: GALLERY if QUERY in folder_of else TEST, VALIDATION: TRAIN if tests else TEST}
    return {folder: subset.get(use, use) for use, folder in folder_of.items()}


def _are_subsets(uses: set[str]) -> bool:
    tests = uses & {QUERY, GALLERY, TEST, VALIDATION}
    return bool(tests and TRAIN in uses) or (QUERY in uses and bool(uses & {GALLERY, TEST}))


def _ask(first: str, second: str, what: str) -> DatasetError:
    return DatasetError(
        f"Folders {shown(first)} and {shown(second)} {what}; leave one out by --exclude "
        f"'{shown(second)}/*', or move them together"
    )
