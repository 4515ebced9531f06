"""Read and check the rows of a manifest."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from metabin_plugin.errors import DatasetError

SUBSETS = ("train", "query", "gallery")
_REQUIRED = ("path", "pid", "camid")


class Row(NamedTuple):
    """One image of a manifest.

    Attributes:
        path: path of the image file, with the manifest's folder.
        pid: label of the identity.
        camid: label of the camera.
        domain: name of the domain, or "" if the manifest has no such column.
        subset: one of ``SUBSETS``.
    """

    path: str
    pid: str
    camid: str
    domain: str
    subset: str


def read_rows(manifest: Path) -> list[Row]:
    """Read a manifest and check that its values are there and its images exist.

    Args:
        manifest: UTF-8 CSV file with the columns ``path,pid,camid[,domain][,subset]``, in any
            order and among any others; relative paths start from its folder.

    Returns:
        Its rows, in order; a row without subset is of ``train``.

    Raises:
        DatasetError: the file is unreadable, lacks a column or any row, or a row is faulty.
    """
    rows: list[Row] = []
    first_lines: dict[tuple[str, str], int] = {}
    for line, cells in _read_cells(manifest):
        row = _read_row(manifest, line, cells)
        first = first_lines.setdefault((row.subset, row.path), line)
        if first != line:
            raise _fault(
                manifest, line, f"repeats {row.path} of line {first} in {row.subset}", "remove it"
            )
        rows.append(row)
    if not rows:
        raise DatasetError(f"Manifest {manifest} has no rows; add one for each image.")
    return rows


def _read_cells(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            try:
                _check_header(manifest, reader.fieldnames or [])
                for cells in reader:
                    yield reader.line_num, cells
            except csv.Error as error:
                line = reader.reader.line_num
                raise _fault(manifest, line, f"cannot be read ({error})", "mend it") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"Manifest {manifest} is not UTF-8 ({error}); convert it.") from None
    except OSError as error:
        raise DatasetError(f"Manifest {manifest} cannot be read ({error}); mend it.") from None


def _check_header(manifest: Path, columns: Sequence[str]) -> None:
    missing = [column for column in _REQUIRED if column not in columns]
    if missing:
        raise DatasetError(
            f'Manifest {manifest} has no column "{missing[0]}" (its first line is '
            f'"{",".join(columns)}"); start it with "path,pid,camid".'
        )


def _read_row(manifest: Path, line: int, cells: dict[str, str]) -> Row:
    # A short line has None in its last columns; csv puts surplus cells under the key None.
    values = {key: (cells[key] or "").strip() for key in cells if key in {*_REQUIRED, "domain"}}
    for column, value in values.items():
        if not value:
            raise _fault(manifest, line, f'has no "{column}"', "fill it in")
    subset = (cells.get("subset") or "").strip() or "train"
    if subset not in SUBSETS:
        raise _fault(
            manifest, line, f'has the subset "{subset}"', f"use one of {', '.join(SUBSETS)}"
        )
    image = manifest.parent / values["path"]
    if not image.is_file():
        raise _fault(
            manifest,
            line,
            f"names the image {image}, which does not exist",
            "paths start from the manifest's folder",
        )
    if image.stat().st_size == 0:
        raise _fault(manifest, line, f"names the image {image}, which is empty", "restore it")
    return Row(str(image), values["pid"], values["camid"], values.get("domain", ""), subset)


def _fault(manifest: Path, line: int, fault: str, remedy: str) -> DatasetError:
    return DatasetError(f"Manifest {manifest}, line {line}, {fault}; {remedy}.")
