"""Find the datasets that a config names."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fastreid.data.build
from fastreid.data.datasets import DATASET_REGISTRY

from metabin_plugin.data.manifest import ManifestDataset
from metabin_plugin.data.manifest_rows import is_manifest
from metabin_plugin.errors import DatasetError
from metabin_plugin.registries import registered

_NOT_FOUND = re.compile(r'"(?P<path>.*)" is not found')


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
                "tools/make_manifest.py and name that."
            ) from None
        raise DatasetError(
            f'{key} lists "{name}", which is neither a registered dataset nor a .csv file; '
            f"{_suggest(name, registered(DATASET_REGISTRY))}."
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
            raise DatasetError(f'{key} lists "{name}", which has no {subset} images; {remedy}.')
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
        f'environment variable FASTREID_DATASETS (now "{root}") to the folder that holds it.'
    )


def _suggest(name: str, known: Sequence[str]) -> str:
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case)
    names = [by_lower_case[match] for match in close] or list(known)
    return ("did you mean " if close else "choose one of ") + ", ".join(names)
