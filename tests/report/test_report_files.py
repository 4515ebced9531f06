"""Figures and tables are written whole, and refused before the work is done."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import rc_context

from metabin_plugin.evaluation import Images
from metabin_plugin.report.embeddings import Panel, Target, draw_maps, query_distances
from metabin_plugin.report.files import (
    FigureError,
    beside,
    check_output,
    new_figure,
    save_figure,
    write_table,
)
from metabin_plugin.report.gates import draw_gates
from metabin_plugin.report.training import draw_curves
from tests.full_disk import full_disk


@pytest.mark.parametrize("name", ["gates", "gates.csv", "folder.png"])
def test_what_is_no_figure_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(FigureError, match="is not the path of a figure"):
        check_output(tmp_path / name)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FigureError, match="cannot be written"):
        check_output(tmp_path / "file" / "gates.png")
    check_output(tmp_path / "new" / "folder" / "gates.png")
    assert (tmp_path / "new" / "folder").is_dir()


def test_missing_matplotlib_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(FigureError, match=r'matplotlib.*extra "demo"'):
        check_output(tmp_path / "gates.png")


@pytest.mark.parametrize(
    ("kind", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_figures_have_the_format_of_their_name(tmp_path: Path, kind: str, start: bytes) -> None:
    figure = new_figure(2, 1)
    figure.subplots().plot([1, 2])
    save_figure(figure, tmp_path / f"x.{kind}")
    assert (tmp_path / f"x.{kind}").read_bytes().startswith(start)


def maps(name: str) -> Any:
    people, cameras = np.array([0, 1]), np.array([0, 0])
    query, gallery = (Images(torch.rand(2, 3), people, cameras + side) for side in (0, 1))
    target = Target(query, gallery, cosine=False)
    panel = Panel(target, np.zeros((2, 2)), np.ones((2, 2)), query_distances(target))
    return draw_maps({name: {name: panel}}, lines=True)


@pytest.mark.parametrize("name", ["$x_{$", "$x$", "_run", "a$b", r"a\$b", "__", "$"])
@pytest.mark.parametrize(
    ("draw", "times"),
    [
        (lambda name: draw_gates({name: {"layer": np.array([0.5, 1.0])}}), 1),
        # In the legend and over its panel; beside the row and over its panel.
        (lambda name: draw_curves({name: {name: {1: 2.0, 2: 3.0}}, "other": {}}, [name]), 2),
        (maps, 2),
    ],
    ids=["gates", "training", "embeddings"],
)
def test_names_are_drawn_as_they_are(
    tmp_path: Path, draw: Callable[[str], Any], times: int, name: str
) -> None:
    with rc_context({"svg.fonttype": "none"}):
        save_figure(draw(name), tmp_path / "x.svg")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "x.svg").read_text("utf-8"))
    assert [text.strip().partition(": match")[0] for text in texts].count(name) == times


def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    with full_disk(path), pytest.raises(FigureError, match="cannot be written"):
        save_figure(new_figure(1, 1), path)
    assert path.read_bytes() == b"old"


def test_tables_lie_beside_their_figure(tmp_path: Path) -> None:
    figure = tmp_path / "gates.png"
    assert beside(figure).name == "gates.csv"
    assert beside(figure, "parts").name == "gates_parts.csv"
    write_table(beside(figure), ["a", "b"], [["x, y", 1 / 3], [np.int64(5), np.float64(2e-9)]])
    assert beside(figure).read_bytes() == b'a,b\n"x, y",0.333333\n5,2e-09\n'


def test_names_in_a_table_are_no_formulas(tmp_path: Path) -> None:
    write_table(tmp_path / "x.csv", ["run", "value"], [["=1+1", -0.5], ["@a", -2]])
    assert (tmp_path / "x.csv").read_bytes() == b"run,value\n'=1+1,-0.5\n'@a,-2\n"
