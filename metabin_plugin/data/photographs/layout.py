"""How a folder of photographs is laid out: a pattern of paths, and the usual ones recognized."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
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

# File names in the form of Market-1501: 0002_c1s1_000451_03.jpg.
_MARKET = re.compile(r"(?P<identity>-?\d+)_c(?P<camera>\d+)")
# File names that say who is on the photograph: person_0001.png, cam1_id3.jpg.
_PERSON = re.compile(
    r"(?P<before>.*?)(?P<word>(?<![a-z])(person|people|pedestrian|ped|subject|identity|pid|id)"
    r"[ _-]*)(?P<identity>\d+)",
    re.IGNORECASE | re.DOTALL,
)
_CAMERA = re.compile(r"(c|(cam|camera|kamera|view)[ _-]*[a-z]?)[ _-]*\d*", re.IGNORECASE)
_PLACE = re.compile(r"(site|place|location|shop|store|building|domain)[ _-]*\w?\d*", re.IGNORECASE)
_DATE = re.compile(r"(19|20)\d\d[-_. ]?[01]\d[-_. ]?[0-3]\d")
# People are more than cameras, but a few of either can be both.
_CLEARLY_MORE = 2
_REMEDY = "say how by --layout, '{camera}/{identity}/*' for example"


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


class _Tree(NamedTuple):
    """Photographs, all below the folders of subsets if there are such folders.

    Attributes:
        above: the part of the layout down to the folders of subsets, with its ``/``; "" for none.
        paths: the folders and the name of each photograph, from there on.
        example: the whole path of the first one, for a sentence.
    """

    above: str
    paths: list[list[str]]
    example: str


def guess_layout(paths: Sequence[str]) -> Layout:
    """The layout of photographs, if it is one of the usual ones and no other is as likely.

    Folders called as subsets, ``train``, ``query`` and ``gallery`` for example (see
    ``subset_folders``), are subsets, on top or in each folder on top; what lies beside them plays
    no part. Then:

    - file names like ``0002_c1s1_000451.jpg``, in one folder, in one for each domain, or in one
      for each identity;
    - ``{identity}/*``;
    - ``{camera}/{identity}/*`` and ``{identity}/{camera}/*``, if the folders of cameras are called
      so (``cam1``, ``c2``, ``camera_a``), or identities are the outer folders, are at least twice
      as many, and have folders of equal names in them;
    - ``{domain}/{camera}/{identity}/*`` and ``{domain}/{identity}/{camera}/*``, told apart by the
      names of cameras, or else by identities being at least twice as many as cameras.

    Folders that are called as cameras, places or days are not taken for people, nor are any if the
    files' names tell other people.

    Args:
        paths: of the photographs, relative to their folder, with ``/`` between folders.

    Raises:
        DatasetError: they have none of these layouts, or two are as likely.
    """
    tree = _below_subsets([path.split("/") for path in paths])
    by_depth = {len(parts): "/".join(parts) for parts in tree.paths}
    if len(by_depth) > 1:
        (_, first), (_, second) = sorted(by_depth.items())[:2]
        raise DatasetError(
            f"Images {shown(first)} and {shown(second)} are not equally many folders deep; leave "
            f"one kind out by --exclude, or {_REMEDY}"
        )
    pattern = _pattern(tree)
    twice = set(Layout(pattern).fields) & set(re.findall(r"\{(\w+)\}", tree.above))
    if twice:
        raise DatasetError(
            f"Image {tree.example} can be {tree.above}{pattern}, which has two folders of a "
            f"{twice.pop()}; {_REMEDY}"
        )
    return Layout(tree.above + pattern)


def _below_subsets(paths: list[list[str]]) -> _Tree:
    inner: dict[str, set[str]] = defaultdict(set)
    for parts in paths:
        if len(parts) > 1:
            inner[parts[0]].update(parts[1:2] if len(parts) > 2 else [])
    holders = [name for name, names in inner.items() if are_subsets(names)]
    above, kept = "", paths
    if are_subsets(inner) or (all(map(use_of, inner)) and all(len(p) > 1 for p in paths)):
        above, kept = "{subset}/", [p for p in paths if len(p) > 1 and use_of(p[0])]
    elif holders:
        above = f"{'{camera}' if _are_all(_CAMERA, holders) else '{domain}'}/{{subset}}/"
        kept = [p for p in paths if len(p) > 2 and p[0] in holders and use_of(p[1])]
    else:
        for names in (inner.keys(), *inner.values()):
            if look_like_subsets(names):
                raise DatasetError(
                    f"Folders {', '.join(map(shown, sorted(names)))} look like subsets; call them "
                    "train, query and gallery, or test, if they are, and else say what they are "
                    "by --layout, '{domain}/{identity}/*' for example"
                )
    below = [parts[above.count("/") :] for parts in kept]
    return _Tree(above, below, shown("/".join(kept[0])))


def _pattern(tree: _Tree) -> str:
    folders = tree.paths
    depth = len(folders[0]) - 1
    markets = [match for parts in folders if (match := _MARKET.match(parts[-1]))]
    pattern = _market_pattern(tree, markets) if len(markets) == len(folders) else ""
    if pattern:
        return pattern
    if depth not in (1, 2, 3):
        raise DatasetError(f"Image {tree.example} is in none of the usual layouts; {_REMEDY}")
    if depth == 1:
        pattern = "{identity}/*"
    else:
        pattern = _two_folders(tree) if depth == 2 else _three_folders(tree)
    _check_people(tree, pattern)
    return pattern


def _market_pattern(tree: _Tree, markets: Sequence[re.Match[str]]) -> str:
    """The pattern for file names in the form of Market-1501; "" if the folders fit none."""
    folders, name = tree.paths, "{identity}_c{camera}*"
    depth = len(folders[0]) - 1
    if depth == 0:
        return name
    pairs = list(zip(folders, markets, strict=True))
    if all(parts[-2] == match["identity"] for parts, match in pairs) and depth < 3:
        return f"{{identity}}/{name}" if depth == 1 else f"{{domain}}/{{identity}}/{name}"
    if depth > 1:
        return ""
    cameras: dict[str, set[str]] = defaultdict(set)
    seen_in: dict[str, set[str]] = defaultdict(set)
    for parts, match in pairs:
        cameras[parts[0]].add(match["camera"])
        seen_in[match["identity"]].add(parts[0])
    # Each folder has one camera, which is no other's, and people are in several.
    of_cameras = len(set().union(*cameras.values())) == sum(map(len, cameras.values()))
    of_cameras &= all(len(found) == 1 for found in cameras.values())
    of_cameras &= any(len(found) > 1 for found in seen_in.values())
    if _are_all(_CAMERA, cameras) or of_cameras:
        other = f"{tree.above}*/{name}"
        raise DatasetError(
            f"Image {tree.example} can be {tree.above}{{domain}}/{name} ({len(cameras)} domains, "
            f"each with its own people) or {other} (folders of cameras, with the same "
            f"{len(seen_in)} people); say which by --layout, {other!r} for example"
        )
    return f"{{domain}}/{name}"


def _two_folders(tree: _Tree) -> str:
    folders, example = tree.paths, tree.example
    outer, inner = ({parts[level] for parts in folders} for level in (0, 1))
    by_camera, by_identity = "{camera}/{identity}/*", "{identity}/{camera}/*"
    are_cameras = [_are_all(_CAMERA, outer), _are_all(_CAMERA, inner)]
    if any(are_cameras) and not all(are_cameras):
        return by_camera if are_cameras[0] else by_identity
    subsets = [name for name in sorted(outer) if use_of(name)]
    if len(outer) >= _CLEARLY_MORE * len(inner) and _recurring(folders) and not subsets:
        return by_identity
    by_domain, people = "{domain}/{identity}/*", {(a, b) for a, b, _ in folders}
    readings = [
        f"{tree.above}{by_camera} ({len(outer)} cameras and {len(inner)} people, "
        f"{_recurring(folders)} of them seen by several)",
        f"{tree.above}{by_domain} ({len(outer)} domains and {len(people)} people)",
    ]
    if subsets:
        readings.append(f"{{subset}}/{{identity}}/* (subsets {', '.join(subsets)})")
    raise DatasetError(
        f"Image {example} can be {' or '.join(readings)}; say which by --layout, "
        f"'{tree.above}{by_camera}' for example"
    )


def _three_folders(tree: _Tree) -> str:
    levels: list[dict[str, set[str]]] = [defaultdict(set), defaultdict(set)]
    for parts in tree.paths:
        for names, name in zip(levels, parts[1:3], strict=True):
            names[parts[0]].add(name)
    second, third = (set().union(*names.values()) for names in levels)
    are_cameras = [_are_all(_CAMERA, second), _are_all(_CAMERA, third)]
    counts = [sum(map(len, names.values())) for names in levels]
    if are_cameras[0] == are_cameras[1]:
        are_cameras = [
            _CLEARLY_MORE * counts[0] <= counts[1],
            _CLEARLY_MORE * counts[1] <= counts[0],
        ]
    if are_cameras[0] == are_cameras[1]:
        raise DatasetError(
            f"Image {tree.example} is in folders of {counts[0]} and {counts[1]} names below the "
            "domain's, neither of which look like cameras or are clearly fewer; say how by "
            f"--layout, '{tree.above}{{domain}}/{{camera}}/{{identity}}/*' for example"
        )
    return "{domain}/{camera}/{identity}/*" if are_cameras[0] else "{domain}/{identity}/{camera}/*"


def _check_people(tree: _Tree, pattern: str) -> None:
    """Ask where what would be people are as well something else, or others are as well people.

    Raises:
        DatasetError: the folders of the identities are called as cameras, places or days, or the
            files' names tell other people.
    """
    folders, layout = tree.paths, Layout(pattern)
    read = [labels for parts in folders if (labels := layout.read("/".join(parts)))]
    people = {labels.identity for labels in read}
    is_other = any(_are_all(kind, people) for kind in (_CAMERA, _PLACE, _DATE))
    named = _people_in_names([parts[-1] for parts in folders])
    if not is_other and (not named or _are_the_same(read, named)):
        return
    role = "{camera}" if _are_all(_CAMERA, people) else "{domain}"
    if role in tree.above + pattern or _are_all(_DATE, people):
        role = "*"
    above = tree.above + pattern.replace("{identity}", role)[:-1]
    other = above + _name_pattern(folders[0][-1])
    raise DatasetError(
        f"Image {tree.example} can be {tree.above}{pattern} ({len(people)} people, "
        f"{shown(min(people))} for example) or have its person in the file's name, as in {other}; "
        f"say which by --layout, {other!r} for example"
    )


def _are_the_same(read: Sequence[Labels], named: Sequence[str]) -> bool:
    """Whether the identities of folders are those of files' names, under whatever names."""
    triples = {(x.domain, x.identity, name) for x, name in zip(read, named, strict=True)}
    of_folders = {(domain, identity) for domain, identity, _ in triples}
    of_names = {(domain, name) for domain, _, name in triples}
    return len(triples) == len(of_folders) == len(of_names)


def _people_in_names(names: Sequence[str]) -> list[str]:
    """The people that the names of files tell; none if one tells nobody."""
    for pattern in (_MARKET, _PERSON):
        matches = [match for name in names if (match := pattern.match(name))]
        if len(matches) == len(names):
            return [match["identity"] for match in matches]
    return []


def _name_pattern(name: str) -> str:
    """The pattern of files' names, of which one is given, that has the person in it."""
    if _MARKET.match(name):
        return "{identity}_*"
    match = _PERSON.match(name)
    if match:
        return f"{'*' if match['before'] else ''}{match['word']}{{identity}}*"
    return "{identity}.*"


def _are_all(kind: re.Pattern[str], names: Iterable[str]) -> bool:
    return all(kind.fullmatch(name) for name in names)


def _recurring(folders: list[list[str]]) -> int:
    """How many names of inner folders are in several outer ones."""
    outer: dict[str, set[str]] = defaultdict(set)
    for parts in folders:
        outer[parts[1]].add(parts[0])
    return sum(len(names) > 1 for names in outer.values())
