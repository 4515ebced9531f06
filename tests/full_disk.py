"""A disk that is full when a chosen file is written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from metabin_plugin import files


@contextmanager
def full_disk(path: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, ``replace_file`` finds no space for this file.

    Args:
        path: the file; others can be written.
    """

    def open_partial(name: str, mode: str) -> Any:
        if re.fullmatch(rf"{re.escape(os.fspath(path))}\.[0-9a-f]{{8}}\.partial", name):
            Path(name).touch(exist_ok=False)
            name, mode = "/dev/full", "wb"
        return open(name, mode)

    with mock.patch.object(files, "open", open_partial, create=True):
        yield
