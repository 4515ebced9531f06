"""Photographs with their labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import NamedTuple

from metabin_plugin.data.manifest import is_distractor, is_junk
from metabin_plugin.data.photographs.layout import (
    NAMES,
    TEST,
    TRAIN,
    VALIDATION,
    Labels,
    Layout,
    guess_layout,
    subsets_of,
    use_of,
)
from metabin_plugin.errors import DatasetError
from metabin_plugin.text import shown


class Photograph(NamedTuple):
    """One image and its labels; "" where they are not known.

    Attributes:
        path: relative to the folder of all photographs, with ``/`` between folders.
        identity: a label within the domain.
        camera: a label within the domain.
        domain: a label.
        subset: a subset of manifests.
    """

    path: str
    identity: str
    camera: str = ""
    domain: str = ""
    subset: str = ""

    @property
    def person(self) -> tuple[str, str]:
        """Domain and identity, which together tell people apart."""
        return self.domain, self.identity

    @property
    def is_distractor(self) -> bool:
        """Whether it shows nobody who is asked for, and so is in the gallery only."""
        return is_distractor(self.identity, self.path)


class Labelled(NamedTuple):
    """What the paths of photographs say.

    Attributes:
        layout: how they were read.
        photographs: those that are used; those of a layout with subsets have theirs.
        left_out: how many others there are, by why.
        of_no_use: patterns of what is to be left out that no path is like.
    """

    layout: Layout
    photographs: list[Photograph]
    left_out: Mapping[str, int]
    of_no_use: list[str]


def label_photographs(
    paths: Sequence[str], pattern: str = "", exclude: Sequence[str] = ()
) -> Labelled:
    """Read the labels of photographs from their paths.

    Junk is left out, and so is what lies beside the folders of subsets, and distractors in those
    to train on and of queries (see ``is_distractor`` and ``subset_folders``).

    Args:
        paths: relative to their folder, with ``/`` between folders.
        pattern: their layout, see ``Layout``; "" guesses it.
        exclude: shell patterns of paths that are left out; ``*`` in them goes across folders.

    Raises:
        DatasetError: no photograph is left, a path does not follow the layout, the layout cannot be
            guessed, folders of subsets cannot be told apart, names differ by spaces alone, or all
            photographs are of one person.
    """
    excluded = {glob: {path for path in paths if fnmatch(path, glob)} for glob in exclude}
    kept = [path for path in paths if not any(path in found for found in excluded.values())]
    if not kept:
        raise DatasetError(
            f"All {len(paths)} images are left out by --exclude {' '.join(exclude)}; leave some"
        )
    layout = Layout(pattern) if pattern else guess_layout(kept)
    left_out = Counter({"by --exclude": len(paths) - len(kept)})
    beside = {path: folder for path in kept if (folder := _beside_subsets(layout, path))}
    left_out.update(_in_folders(beside))
    labels = _read(layout, [path for path in kept if path not in beside])
    if "subset" in layout.fields:
        labels = _name_subsets(layout, labels, is_guess=not pattern)
    labels = _without_spaces(labels)
    photographs = []
    for path, (domain, camera, identity, subset) in labels.items():
        photograph = Photograph(path, identity, camera, domain, subset)
        if is_junk(identity):
            left_out["of identity -1, which is junk"] += 1
        elif photograph.is_distractor and subset in ("train", "query"):
            left_out[f"of distractors (0000) in {subset}"] += 1
        else:
            photographs.append(photograph)
    if len({shot.person for shot in photographs if not shot.is_distractor}) < 2:
        raise DatasetError(
            f"With the layout {layout} all images show one person ({shown(kept[0])} for example), "
            "and two are needed; give another --layout or folder"
        )
    of_no_use = [glob for glob, found in excluded.items() if not found]
    return Labelled(layout, photographs, +left_out, of_no_use)


def _read(layout: Layout, paths: Sequence[str]) -> dict[str, Labels]:
    labels = {path: found for path in paths if (found := layout.read(path))}
    strangers = [path for path in paths if path not in labels]
    if strangers:
        remedy = "leave them out by --exclude, or give another --layout"
        if len(strangers) == len(paths):
            remedy = "give another --layout, of the paths below the folder"
        raise DatasetError(
            f"{len(strangers)} of {len(paths)} images do not follow the layout {layout}, "
            f"{shown(strangers[0])} for example; {remedy}"
        )
    if not paths:
        names = ", ".join(name for names in NAMES.values() for name in names)
        raise DatasetError(
            f"Layout {layout} has a {{subset}}, but no folder is called as one; call them by these "
            f"names: {names}"
        )
    return labels


def _without_spaces(labels: Mapping[str, Labels]) -> dict[str, Labels]:
    """Labels without the spaces around them, which a manifest does not have."""
    names: dict[tuple[str, str, str], str] = {}
    bare: dict[str, Labels] = {}
    for path, found in labels.items():
        domain = found.domain.strip()
        for field in ("domain", "camera", "identity"):
            name = getattr(found, field)
            within = "" if field == "domain" else domain
            first = names.setdefault((field, within, name.strip()), name)
            if first != name:
                one, other = (shown(repr(text)) for text in sorted([first, name]))
                raise DatasetError(
                    f"Names {one} and {other} differ by spaces around them alone; rename one, to "
                    "the other's if they are the same"
                )
            if name and not name.strip():
                raise DatasetError(
                    f"Image {shown(path)} has the {field} {name!r}, which is nothing but spaces; "
                    "rename it"
                )
        bare[path] = Labels(domain, found.camera.strip(), found.identity.strip(), found.subset)
    return bare


def _beside_subsets(layout: Layout, path: str) -> str:
    """The folder of an image in the place of a subset's that is called otherwise, else "".

    An image above such folders is in "./".
    """
    folders = path.split("/")[:-1]
    depth = layout.subset_depth
    if depth < 0 or (len(folders) > depth and use_of(folders[depth])):
        return ""
    return "/".join([*folders[: depth + 1], ""]) or "./"


def _in_folders(beside: Mapping[str, str]) -> Counter[str]:
    """Number of images in folders that are no subsets, in one line if there are many folders."""
    counts = Counter(beside.values())
    if len(counts) > 5:
        names = ", ".join(map(shown, sorted(counts)[:5]))
        what = f"in {names} and {len(counts) - 5} more folders, which are not called as subsets"
        return Counter({what: len(beside)})
    return Counter(
        {f"in {shown(name)}, which is not called as a subset": n for name, n in counts.items()}
    )


def _name_subsets(
    layout: Layout, labels: Mapping[str, Labels], *, is_guess: bool
) -> dict[str, Labels]:
    """Labels with the subsets of manifests in the place of their folders' names."""
    holders = {path: "/".join(path.split("/")[: max(layout.subset_depth, 0)]) for path in labels}
    folders: dict[str, set[str]] = defaultdict(set)
    for path, found in labels.items():
        if not use_of(found.subset):
            raise DatasetError(
                f"Image {shown(path)} is of {shown(found.subset)}, which is not called as a "
                "subset; call it train, query, gallery or test, or leave it out by --exclude"
            )
        folders[holders[path]].add(found.subset)
    subsets = {holder: subsets_of(names) for holder, names in folders.items()}
    named = {path: subsets[holders[path]][found.subset] for path, found in labels.items()}
    if is_guess:
        _check_validation(layout, [(found, named[path]) for path, found in labels.items()])
    return {path: found._replace(subset=named[path]) for path, found in labels.items()}


def _check_validation(layout: Layout, named: Sequence[tuple[Labels, str]]) -> None:
    """Ask whether the people of validation images, which are the test, are those of training."""
    people: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for found, subset in named:
        use = use_of(found.subset)
        if use == TRAIN or (use, subset) == (VALIDATION, TEST):
            people[use].add((found.domain, found.identity))
    common = sorted(people[TRAIN] & people[VALIDATION])
    if common:
        one = str(layout).replace("{subset}", "*")
        raise DatasetError(
            f"{len(common)} people of the folder to train on are in the one for validation by "
            f"their names ({shown(common[0][1])} for example); say by --layout {one!r} that they "
            f"are the same, of whom a share is then held out, or by --layout {str(layout)!r} that "
            "they are others"
        )
