"""The usual layouts of photographs, recognized by their paths."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from metabin_plugin.data.photographs.layout import (
    Labels,
    Layout,
    are_subsets,
    look_like_subsets,
    use_of,
)
from metabin_plugin.errors import DatasetError
from metabin_plugin.text import shown

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
            f"{len(seen_in)} people); say which by --layout, '{other}' for example"
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
        f"say which by --layout, '{other}' for example"
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
