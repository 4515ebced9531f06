"""Text that comes from elsewhere, made fit for a sentence, a terminal or a table."""

from __future__ import annotations

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


def as_cell(text: str) -> str:
    """A text as a cell of a CSV file that a spreadsheet may open: never a formula.

    Args:
        text: any text. One that begins like a formula gets an apostrophe in front, by which
            spreadsheets know text.
    """
    return f"'{text}" if text.startswith(_FORMULA) else text
