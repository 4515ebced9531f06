"""Find the datasets that a config names, and check that they can be used."""

from __future__ import annotations

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fastreid.data.build
from fastreid.data.datasets import DATASET_REGISTRY

from metabin_plugin.data.manifest import ManifestDataset, is_manifest
from metabin_plugin.errors import DatasetError
from metabin_plugin.registries import registered
from metabin_plugin.text import shown

_NOT_FOUND = re.compile(r'"(?P<path>.*)" is not found')
Items = Sequence[Sequence[Any]]


def datasets_root() -> str:
    """Return the folder that holds all datasets, ``$FASTREID_DATASETS`` or fastreid's default."""
    return os.environ.get("FASTREID_DATASETS", fastreid.data.build._root)


def build_dataset(
    name: str, root: str | None = None, *, key: str = "DATASETS.NAMES", **kwargs: Any
) -> Any:
    """Build the dataset with a registered name, or the one of a manifest file.

    Args:
        name: a name in fastreid's ``DATASET_REGISTRY``, or the path of a ``.csv`` file.
        root: the folder that holds all datasets; by default ``datasets_root()``.
        key: config key that named it, for the error texts.
        **kwargs: passed on to the dataset, ``combineall`` for example.

    Returns:
        A fastreid ``ImageDataset``.

    Raises:
        DatasetError: no dataset has this name, or its files are not there.
    """
    root = datasets_root() if root is None else root
    if is_manifest(name):
        return ManifestDataset(name, root=root, **kwargs)
    try:
        dataset_class = DATASET_REGISTRY.get(name)
    except KeyError:
        if os.path.isdir(name):
            raise DatasetError(
                f'{key} lists "{name}", which is a folder; make a manifest of its images with '
                "`metabin manifest` and name that"
            ) from None
        raise DatasetError(
            f'{key} lists "{name}", which is neither a registered dataset nor a .csv file; '
            f"{_suggest(name, registered(DATASET_REGISTRY))}"
        ) from None
    with _explain_missing_files(key, name, root):
        return dataset_class(root=root, **kwargs)


def build_nonempty_dataset(
    name: str, subsets: Sequence[str], root: str | None = None, *, key: str, **kwargs: Any
) -> Any:
    """Build a dataset as ``build_dataset`` does, and check that it has images of some subsets.

    Args:
        name: as for ``build_dataset``.
        subsets: those that must not be empty, of ``train``, ``query`` and ``gallery``.
        root: as for ``build_dataset``.
        key: config key that named it, for the error texts.
        **kwargs: passed on to the dataset.

    Returns:
        A fastreid ``ImageDataset``.

    Raises:
        DatasetError: no dataset has this name, its files are not there, or a subset is empty.
    """
    root = datasets_root() if root is None else root
    dataset = build_dataset(name, root, key=key, **kwargs)
    for subset in subsets:
        if not read_subset(dataset, name, subset, root, key=key):
            remedy = (
                f'give some of its lines the subset "{subset}"'
                if isinstance(dataset, ManifestDataset)
                else f"name another dataset or put its images under {root}"
            )
            raise DatasetError(f'{key} lists "{name}", which has no {subset} images; {remedy}')
    return dataset


def read_subset(
    dataset: Any, name: str, subset: str, root: str | None = None, *, key: str
) -> list[Any]:
    """The image items of a dataset's subset.

    Many of fastreid's datasets look for their images only when a list is first read.

    Args:
        dataset: what ``build_dataset`` returned for ``name``.
        name: as for ``build_dataset``.
        subset: ``train``, ``query`` or ``gallery``.
        root: as for ``build_dataset``.
        key: config key that named it, for the error texts.

    Raises:
        DatasetError: its files are not there.
    """
    with _explain_missing_files(key, name, datasets_root() if root is None else root):
        return getattr(dataset, subset)


def check_targets(names: Iterable[str]) -> None:
    """Check before a training that each target can be evaluated after it. No image is read.

    Args:
        names: ``DATASETS.TESTS``.

    Raises:
        DatasetError: a target is unknown, missing or empty, or none of its queries can be scored.
    """
    for name in names:
        dataset = build_nonempty_dataset(name, ["query", "gallery"], key="DATASETS.TESTS")
        require_matches(name, splits_of(dataset))


def require_matches(name: str, splits: Sequence[tuple[Items, Items]]) -> None:
    """Check that a target can be evaluated.

    Args:
        name: the target, as the config names it.
        splits: its splits; each must have a query that can be scored.

    Raises:
        DatasetError: a split has none.
    """
    for query, gallery in splits:
        if len(unmatched_queries(query, gallery)) == len(query):
            cameras = {item[2] for side in (query, gallery) for item in side}
            raise DatasetError(
                f'Target "{shown(name)}" cannot be evaluated: none of its {len(query)} queries '
                "has a gallery image of the same person from another camera (cameras in all: "
                f"{len(cameras)}); correct the persons and cameras of its images, or name another "
                "dataset in DATASETS.TESTS"
            )


def unmatched_queries(query: Items, gallery: Items) -> list[str]:
    """Paths of the queries whose identity no other camera's gallery image shows.

    Args:
        query: one ``(path, identity, camera)`` for each query.
        gallery: the same for each gallery image.
    """
    cameras: dict[Any, set[Any]] = defaultdict(set)
    for item in gallery:
        cameras[item[1]].add(item[2])
    return [path for path, identity, camera, *_ in query if not cameras[identity] - {camera}]


def splits_of(dataset: Any) -> Sequence[tuple[Items, Items]]:
    """Query and gallery of each split of a target; one pair where it has no further splits."""
    return getattr(dataset, "splits", None) or [(dataset.query, dataset.gallery)]


@contextmanager
def _explain_missing_files(key: str, name: str, root: str) -> Iterator[None]:
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f'{key} lists "{name}": {error}') from error
    except OSError as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        fault = "is not found" if missing else f"cannot be read ({error.strerror})"
        path = error.filename
    except RuntimeError as error:
        match = _NOT_FOUND.search(str(error))
        if match is None:
            raise
        path, fault = match["path"], "is not found"
    else:
        return
    raise DatasetError(
        f'{key} lists "{name}", but {path} {fault}; put the dataset there, or set the '
        f'environment variable FASTREID_DATASETS (now "{root}") to the folder that holds it'
    )


def _suggest(name: str, known: Sequence[str]) -> str:
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case)
    names = [by_lower_case[match] for match in close] or list(known)
    return ("did you mean " if close else "choose one of ") + ", ".join(names)
