"""Text from elsewhere in sentences and tables."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabin_plugin.text import as_cell, from_cell, shown, visible

# No file name holds one, and Python 3.10 writes none into a table.
NO_NUL = st.characters(blacklist_characters="\0")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a b/ü 日本.png", "a b/ü 日本.png"),
        ("a\nb", r"'a\nb'"),
        ("\x1b[2Jx", r"'\x1b[2Jx'"),
        ("\u202egnp.exe", r"'\u202egnp.exe'"),
        ("\udcff", r"'\udcff'"),
        ("\x9b31m", r"'\x9b31m'"),
    ],
)
def test_a_text_in_a_sentence_is_one_line_without_controls(text: str, line: str) -> None:
    assert shown(text) == line


@given(st.text(max_size=500))
def test_any_text_can_be_shown(text: str) -> None:
    line = shown(text)
    assert line.isprintable() and len(line) <= 200
    line.encode()


def test_lines_stay_where_a_terminal_shows_them() -> None:
    assert visible("ü \x1b[2J\r\x9b\u202e\udcff\nb") == "ü \\x1b[2J\\r\\x9b\\u202e\\udcff\nb"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"]
)
def test_a_formula_becomes_text(text: str) -> None:
    assert as_cell(text) == f"'{text}"
    assert as_cell(f"'{text}") == f"''{text}"


@pytest.mark.parametrize("text", ["", "a=1", "photos/-1.png", "'quoted", "2_1.png"])
def test_other_cells_stay(text: str) -> None:
    assert as_cell(text) == text


@given(st.text(NO_NUL, max_size=30) | st.text(alphabet="'=+-@\t\ra", max_size=6))
def test_no_cell_of_a_table_begins_like_a_formula(text: str) -> None:
    file = io.StringIO()
    csv.writer(file).writerow([as_cell(text), ""])
    (read, _), *_ = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert from_cell(read) == text
    assert not read.startswith(("=", "+", "-", "@", "\t", "\r"))
