"""The usual layouts of photographs, recognized by their paths."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from metabin_plugin.errors import DatasetError
from photographs.layout import SUBSET_FOLDERS, Layout

# File names in the form of Market-1501: 0002_c1s1_000451_03.jpg.
_MARKET = re.compile(r"(?P<identity>-?\d+)_c\d")
_CAMERA = re.compile(r"(c|(cam|camera|kamera|view)[ _-]*[a-z]?)[ _-]*\d*", re.IGNORECASE)
_REMEDY = "say how by --layout, '{camera}/{identity}/*' for example"


def guess_layout(paths: Sequence[str]) -> Layout:
    """The layout of photographs, if it is one of the usual ones and no other fits.

    Folders ``train``, ``query`` and ``gallery`` (or Market-1501's) on top are subsets. Then:

    - file names like ``0002_c1s1_000451.jpg``, in one folder, in one for each domain, or in one
      for each identity;
    - ``{identity}/*``;
    - ``{camera}/{identity}/*`` and ``{identity}/{camera}/*``, if the folders of cameras are called
      so (``cam1``, ``c2``, ``camera_a``), or identities are the outer folders, are the more
      numerous ones, and have folders of equal names in them;
    - ``{domain}/{camera}/{identity}/*`` and ``{domain}/{identity}/{camera}/*``, told apart by the
      names of cameras, or else by identities being more than cameras.

    Args:
        paths: of the photographs, relative to their folder, with ``/`` between folders.

    Raises:
        DatasetError: they have none of these layouts, or two are as likely.
    """
    folders = [path.split("/") for path in paths]
    subset = ""
    if all(len(parts) > 1 and parts[0] in SUBSET_FOLDERS for parts in folders):
        subset = "{subset}/"
        folders = [parts[1:] for parts in folders]
    by_depth = {len(parts): "/".join(parts) for parts in folders}
    if len(by_depth) > 1:
        (_, first), (_, second) = sorted(by_depth.items())[:2]
        raise DatasetError(
            f"Images {first} and {second} are not equally many folders deep; leave one kind out "
            f"by --exclude, or {_REMEDY}."
        )
    return Layout(subset + _pattern(folders))


def _pattern(folders: list[list[str]]) -> str:
    depth = len(folders[0]) - 1
    markets = [_MARKET.match(parts[-1]) for parts in folders]
    if all(markets) and depth < 2:
        return _market_pattern(folders, [match["identity"] for match in markets if match])
    if depth == 1:
        return "{identity}/*"
    if depth == 2:
        return _two_folders(folders)
    if depth == 3:
        return _three_folders(folders)
    raise DatasetError(f"Image {'/'.join(folders[0])} is in none of the usual layouts; {_REMEDY}.")


def _market_pattern(folders: list[list[str]], identities: list[str]) -> str:
    name = "{identity}_c{camera}*"
    if len(folders[0]) == 1:
        return name
    own = all(parts[0] == identity for parts, identity in zip(folders, identities, strict=True))
    return f"{{identity}}/{name}" if own else f"{{domain}}/{name}"


def _two_folders(folders: list[list[str]]) -> str:
    outer, inner = ({parts[level] for parts in folders} for level in (0, 1))
    by_camera, by_identity = "{camera}/{identity}/*", "{identity}/{camera}/*"
    are_cameras = [_are_cameras(outer), _are_cameras(inner)]
    if any(are_cameras) and not all(are_cameras):
        return by_camera if are_cameras[0] else by_identity
    if len(outer) > len(inner) and _recurring(folders):
        return by_identity
    raise DatasetError(
        f"Image {'/'.join(folders[0])} can be {by_camera} ({len(outer)} cameras and {len(inner)} "
        f"people, {_recurring(folders)} of them seen by several) or {{domain}}/{{identity}}/* "
        f"({len(outer)} domains and {len({(a, b) for a, b, _ in folders})} people); say which by "
        f"--layout, '{by_camera}' for example."
    )


def _three_folders(folders: list[list[str]]) -> str:
    levels: list[dict[str, set[str]]] = [defaultdict(set), defaultdict(set)]
    for parts in folders:
        for names, name in zip(levels, parts[1:3], strict=True):
            names[parts[0]].add(name)
    second, third = (set().union(*names.values()) for names in levels)
    are_cameras = [_are_cameras(second), _are_cameras(third)]
    counts = [sum(map(len, names.values())) for names in levels]
    if are_cameras[0] == are_cameras[1]:
        # People are more than cameras.
        are_cameras = [counts[0] < counts[1], counts[1] < counts[0]]
    if are_cameras[0] == are_cameras[1]:
        raise DatasetError(
            f"Image {'/'.join(folders[0])} is in folders of {counts[0]} and {counts[1]} names "
            "below the domain's, neither of which look like cameras; say how by --layout, "
            "'{domain}/{camera}/{identity}/*' for example."
        )
    return "{domain}/{camera}/{identity}/*" if are_cameras[0] else "{domain}/{identity}/{camera}/*"


def _are_cameras(names: Iterable[str]) -> bool:
    return all(_CAMERA.fullmatch(name) for name in names)


def _recurring(folders: list[list[str]]) -> int:
    """How many names of inner folders are in several outer ones."""
    outer: dict[str, set[str]] = defaultdict(set)
    for parts in folders:
        outer[parts[1]].add(parts[0])
    return sum(len(names) > 1 for names in outer.values())
