"""Text that comes from elsewhere, made fit for a sentence, a terminal or a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_LONGEST = 200
# What makes a spreadsheet take a cell for a formula; a tab or carriage return may stand before it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def shown(text: str) -> str:
    """A text as part of a sentence: in one line, not too long, control characters escaped.

    Args:
        text: any text, a file's name for example.
    """
    line = text if text.isprintable() else repr(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def visible(text: str) -> str:
    """A text as a terminal may show it: control characters, which could act on it, escaped.

    Args:
        text: any text; its lines stay.
    """
    return "".join(
        sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text
    )


def as_cell(text: str) -> str:
    """A text as a cell of a CSV file that a spreadsheet may open: never a formula.

    Args:
        text: any text. One that begins like a formula gets an apostrophe in front, by which
            spreadsheets know text; so does one that begins so after apostrophes.
    """
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def csv_file(columns: Sequence[str], rows: Iterable[Sequence[object]], float_format: str) -> bytes:
    """The content of a CSV file, UTF-8, in which no text is a formula (:func:`as_cell`).

    Args:
        columns: their names.
        rows: a value for each column.
        float_format: of floats, ".6g" for example.
    """

    def cell(value: object) -> str:
        if isinstance(value, str):
            return as_cell(value)
        # NumPy's float64 is a float, its float32 is not.
        return format(value, float_format) if isinstance(value, float) else str(value)

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[cell(value) for value in row] for row in rows])
    # A path's bytes that are no UTF-8 are written as they are.
    return text.getvalue().encode(errors="surrogateescape")


def from_cell(cell: str) -> str:
    """The text that :func:`as_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and as_cell(cell) != cell else cell
