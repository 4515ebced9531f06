"""What the folder of a subset may be called, and which subset of a manifest it is."""

from __future__ import annotations

import re
from collections.abc import Iterable

from metabin_plugin.errors import DatasetError
from metabin_plugin.text import shown

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
        f"'{shown(second)}/*', or move them together."
    )
