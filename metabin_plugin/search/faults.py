"""What a user of the search can correct, and the files that it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from metabin_plugin.errors import MetaBINError
from metabin_plugin.files import check_file, write_whole
from metabin_plugin.text import csv_file


class SearchError(MetaBINError):
    """A gallery, an index or a query cannot be used as it is."""


def load_faiss() -> Any:
    """Faiss, the module.

    Raises:
        SearchError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise SearchError(
            "galleries are searched by Faiss, which is not installed; run `pip install faiss-cpu`"
        ) from None
    return faiss


def check_output(path: Path, option: str) -> None:
    """Refuse a path that cannot be written before the work is done, and make its folder.

    Args:
        path: the file to write.
        option: of the command line, for the error texts.

    Raises:
        SearchError: it is a folder, or there can be no such file.
    """
    check_file(path, option, SearchError)


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file, complete or not at all.

    Args:
        path: the file.
        write: writes the content into the open binary file that it is given.

    Raises:
        SearchError: it cannot be written.
    """
    write_whole(path, write, SearchError)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, UTF-8, complete or not at all.

    Floats have six digits after the point. A text that a spreadsheet would take for a formula is
    quoted, see ``as_cell``.

    Raises:
        SearchError: it cannot be written.
    """
    write_file(path, lambda file: file.write(csv_file(columns, rows, ".6f")))
