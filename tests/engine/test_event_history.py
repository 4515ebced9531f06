"""What a resumed run keeps of the log's lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabin_plugin.engine.log import cut_metrics_file
from metabin_plugin.run_folder import logged_scalars

FIRST, SECOND, THIRD = (f'{{"iteration": {n}, "lr": 0.1}}\n' for n in (3, 7, 11))
# Each in the place of a line that was whole once.
DAMAGED = (
    *("[]\n", "\x00\x00\n", "{}\n", '{"iteration": 1e999}\n', '{"iteration": "x"}\n', "\n"),
    *('{"iteration": null}\n', '{"iteration": 5, "lr": {}}\n', "[" * 100_000 + "\n"),
)


@pytest.mark.parametrize(
    ("text", "iteration", "left", "last"),
    [
        (FIRST + SECOND, 8, FIRST + SECOND, 7),
        (FIRST + SECOND, 7, FIRST, 3),
        (FIRST + SECOND[:-1], 9, FIRST, 3),
        (FIRST + "\x00\x00", 9, FIRST, 3),
        (FIRST + "[]\n", 9, FIRST, 3),
        (FIRST + SECOND, 0, "", -1),
        ("", 9, "", -1),
    ],
)
def test_lines_that_will_be_written_again_are_cut(
    tmp_path: Path, text: str, iteration: int, left: str, last: int
) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    assert cut_metrics_file(str(path), iteration) == last
    assert path.read_text() == left


@pytest.mark.parametrize("damage", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_alone_is_lost(tmp_path: Path, damage: str, plugin_log: Any) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(FIRST + damage + SECOND + THIRD)
    assert cut_metrics_file(str(path), 11) == 7
    assert path.read_text() == FIRST + damage + SECOND
    assert f"{path}: line 2 is damaged" in plugin_log.text


@given(st.binary(max_size=40))
def test_any_line_is_read_or_known_to_be_damaged(line: bytes) -> None:
    found = logged_scalars(line)
    assert found is None or isinstance(found[0], int)


def test_a_missing_metrics_file_is_none(tmp_path: Path) -> None:
    assert cut_metrics_file(str(tmp_path / "metrics.json"), 5) == -1
