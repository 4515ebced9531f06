"""MATLAB files of version 5, the format of most annotation files."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from scipy.io import loadmat

from metabin_plugin.data.datasets.scan import Release, remedy
from metabin_plugin.errors import DatasetError


def read_mat(release: Release, path: Path, names: Iterable[str], **options: Any) -> dict[str, Any]:
    """Read variables of a MATLAB file.

    Args:
        release: the dataset, for the error texts.
        path: the file.
        names: the variables that it must have.
        **options: passed on to ``scipy.io.loadmat``.

    Returns:
        Value of each variable.

    Raises:
        DatasetError: if the file is missing, unreadable, of another kind or lacks a variable.
    """
    names = list(names)
    try:
        content = BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f"{release.title}: {path} is missing; {remedy(release)}.") from None
    except OSError as error:
        raise DatasetError(
            f"{release.title}: {path} cannot be read ({error.strerror}); check the file."
        ) from error
    try:
        found = loadmat(content, variable_names=names, **options)
    # On damaged files the parser raises whatever it stumbles over.
    except Exception as error:
        raise DatasetError(
            f"{release.title}: {path} is damaged or no MATLAB file of version 5; {remedy(release)}."
        ) from error
    for name in names:
        if name not in found:
            raise DatasetError(
                f'{release.title}: {path} has no variable "{name}"; {remedy(release)}.'
            )
    return {name: found[name] for name in names}
