"""Read and check the rows of a manifest."""

from __future__ import annotations

import csv
import io
import logging
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from metabin_plugin.data.nobody import is_distractor, is_junk
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import name_on_disk, open_regular
from metabin_plugin.text import shown

SUBSETS = ("train", "query", "gallery", "test")
_REQUIRED = ("path", "pid", "camid")
_COLUMNS = (*_REQUIRED, "domain", "subset")

_log = logging.getLogger(__name__)


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

    @property
    def is_distractor(self) -> bool:
        """Whether it shows nobody who is asked for, and so is in the gallery only."""
        return is_distractor(self.pid, self.path)


def stop(fault: DatasetError) -> None:
    """Raise a row's fault, what reading does by default."""
    raise fault


def is_manifest(name: str) -> bool:
    """Whether what stands in a data set's place names a manifest."""
    return name.lower().endswith(".csv")


def read_rows(manifest: Path, on_fault: Callable[[DatasetError], None] = stop) -> list[Row]:
    """Read a manifest and check that its values are there and its images exist.

    Junk, and distractors in ``train`` and ``query``, are left out (see ``nobody``); the log says
    how many.

    Args:
        manifest: UTF-8 CSV file with the columns ``path,pid,camid[,domain][,subset]``, in any
            order and among any others; relative paths start from its folder.
        on_fault: what is called with the fault of each faulty row, which is then left out.

    Returns:
        Its rows, in order; a row without subset is of ``train``.

    Raises:
        DatasetError: the file is unreadable, lacks a column or any row, or a row is faulty: one
            of ``test`` beside one of ``query`` or ``gallery`` is, too.
    """
    lines = _read_lines(manifest)
    _, columns = next(lines, (1, []))
    columns = [name.strip() for name in columns]
    _check_header(manifest, columns)
    rows: list[Row] = []
    first_lines: dict[tuple[str, str], int] = {}
    first_of: dict[str, int] = {}
    line = 0
    for line, cells in lines:
        try:
            row = _read_row(manifest, line, _name_cells(manifest, line, columns, cells))
            first = first_lines.setdefault((row.subset, row.path), line)
            if first != line:
                what = f"repeats {shown(row.path)} of line {first} in {row.subset}"
                raise _fault(manifest, line, what, "remove it")
            _check_mixture(manifest, line, row.subset, first_of)
            first_of.setdefault(row.subset, line)
            rows.append(row)
        except DatasetError as fault:
            on_fault(fault)
    if not line:
        raise DatasetError(f"Manifest {manifest} has no rows; add one for each image.")
    return list(_without_nobody(manifest, rows))


def _without_nobody(manifest: Path, rows: Sequence[Row]) -> Iterator[Row]:
    left_out: Counter[str] = Counter()
    for row in rows:
        if is_junk(row.pid):
            left_out["of identity -1 (junk)"] += 1
        elif row.is_distractor and row.subset in ("train", "query"):
            left_out[f"of distractors (0000) in {row.subset}"] += 1
        else:
            yield row
    for what, count in left_out.items():
        _log.warning("Manifest %s: %d images %s are left out", manifest, count, what)


def _read_lines(manifest: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of every line that is not empty."""
    reader = csv.reader(io.StringIO(_read_text(manifest), newline=""))
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        fault = f"cannot be read ({error})"
        raise _fault(manifest, reader.line_num, fault, "fix it") from None


def _read_text(manifest: Path) -> str:
    try:
        with open_regular(manifest) as file:
            data = file.read()
    except OSError as error:
        raise DatasetError(
            f"Manifest {manifest} cannot be read ({error.strerror}); fix it."
        ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _fault(manifest, line, f"is not UTF-8 ({error.reason})", "convert the file") from None


def _check_header(manifest: Path, columns: Sequence[str]) -> None:
    missing = [column for column in _REQUIRED if column not in columns]
    if missing:
        raise DatasetError(
            f'Manifest {manifest} has no column "{missing[0]}" (its first line is '
            f'"{shown(",".join(columns))}"); start it with "path,pid,camid".'
        )
    for column in _COLUMNS:
        if columns.count(column) > 1:
            raise DatasetError(
                f'Manifest {manifest} has the column "{column}" twice; rename or remove one.'
            )


def _name_cells(
    manifest: Path, line: int, columns: Sequence[str], cells: Sequence[str]
) -> dict[str, str]:
    if any(cells[len(columns) :]):
        raise _fault(
            manifest,
            line,
            f"has {len(cells)} values for {len(columns)} columns",
            'put a value with a comma between "quotes"',
        )
    # A short line lacks its last values.
    padded = [*cells, *[""] * (len(columns) - len(cells))]
    named = zip(columns, padded[: len(columns)], strict=True)
    return {name: cell.strip() for name, cell in named if name in _COLUMNS}


def _read_row(manifest: Path, line: int, cells: dict[str, str]) -> Row:
    subset = cells.pop("subset", "") or "train"
    for column, value in cells.items():
        if not value:
            raise _fault(manifest, line, f'has no "{column}"', "fill it in")
    if subset not in SUBSETS:
        raise _fault(
            manifest, line, f'has the subset "{shown(subset)}"', f"use one of {', '.join(SUBSETS)}"
        )
    image = manifest.parent / name_on_disk(cells["path"])
    problem = _image_problem(image)
    if problem:
        fault, remedy = problem
        raise _fault(manifest, line, f"names the image {shown(str(image))}, which {fault}", remedy)
    return Row(str(image), cells["pid"], cells["camid"], cells.get("domain", ""), subset)


def _check_mixture(manifest: Path, line: int, subset: str, first_of: dict[str, int]) -> None:
    others = {"test": ("query", "gallery"), "query": ("test",), "gallery": ("test",)}
    for other in others.get(subset, ()):
        if other in first_of:
            what = f"has the subset {subset}, but line {first_of[other]} has {other}"
            remedy = "leave the splits to the plugin (test) or make one (query and gallery)"
            raise _fault(manifest, line, what, remedy)


def _image_problem(image: Path) -> tuple[str, str] | None:
    try:
        status = image.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist", "paths start from the manifest's folder"
    except OSError as error:
        return f"cannot be read ({error.strerror})", "fix it"
    except ValueError:
        return "has a character that no path has", "fix the line"
    if not stat.S_ISREG(status.st_mode):
        return "is not a file", "name an image"
    return None if status.st_size else ("is empty", "restore it")


def _fault(manifest: Path, line: int, fault: str, remedy: str) -> DatasetError:
    return DatasetError(f"Manifest {manifest}, line {line}, {fault}; {remedy}.")
