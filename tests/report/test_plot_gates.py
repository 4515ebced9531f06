"""The numbers behind the figure of the gates, and what the tool refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from metabin_plugin.cli.main import execute
from metabin_plugin.errors import WeightsError
from metabin_plugin.report.files import FigureError
from metabin_plugin.report.gates import (
    INTERVALS,
    gates_of_parts,
    histogram,
    interval_shares,
    read_gates,
)


def write_checkpoint(path: Path, *gates: list[float]) -> Path:
    state = {f"backbone.{i}.gate": torch.tensor(gate) for i, gate in enumerate(gates)}
    torch.save({"model": {**state, "backbone.0.weight": torch.ones(3)}}, path)
    return path


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_shares_are_counted_by_hand() -> None:
    values = np.array([0, 0.1, 0.25, 0.5, 0.74, 0.75, 0.9, 0.95, 0.99, 1.0])
    assert INTERVALS == ("0-0.25", "0.25-0.5", "0.5-0.75", "0.75-0.9", "0.9-0.99", "0.99-1")
    np.testing.assert_allclose(interval_shares(values), [0.2, 0.1, 0.2, 0.1, 0.2, 0.2])


def test_gates_beyond_their_bounds_count_to_the_outermost() -> None:
    values = np.array([-0.2, 1.3])
    np.testing.assert_allclose(interval_shares(values), [0.5, 0, 0, 0, 0, 0.5])
    shares, edges = histogram({"a": values})
    assert shares[0] == shares[-1] == 0.5 and shares.sum() == 1
    assert edges[0] == 0 and edges[-1] == 1 and len(edges) == len(shares) + 1


@pytest.mark.parametrize(
    ("layers", "sizes"), [(1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (5, [2, 2, 1]), (53, [18, 18, 17])]
)
def test_thirds_are_consecutive_layers(layers: int, sizes: list[int]) -> None:
    gates = {f"layer{i}": np.full(2, i / layers) for i in range(layers)}
    whole, *thirds = gates_of_parts(gates).values()
    assert whole == gates
    assert [len(third) for third in thirds] == sizes
    assert [name for third in thirds for name in third] == list(gates)


@pytest.mark.parametrize("name", ["shop.csv", "shop_parts.csv", "shop_histogram.csv"])
def test_a_table_beside_the_figure_takes_no_other_files_place(tmp_path: Path, name: str) -> None:
    """A manifest shop.csv is often beside shop.png."""
    checkpoint = write_checkpoint(tmp_path / "a.pth", [0.5, 1.0])
    draw = ["plot", "gates", str(checkpoint), "--output", str(tmp_path / "shop.png")]
    (tmp_path / name).write_text("path,pid,camid\na.jpg,1,1\n")
    with pytest.raises(FigureError, match=rf"numbers into \S+{name}, which is another file; give"):
        execute(draw)
    assert (tmp_path / name).read_text() == "path,pid,camid\na.jpg,1,1\n"
    (tmp_path / name).unlink()
    # A figure that is drawn anew replaces its own.
    for _ in range(2):
        execute(draw)
    assert len(read_table(tmp_path / "shop.csv")) == 1


def test_the_tables_have_every_layer_and_part(tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path / "a.pth", [0.0, 1.0], [0.5, 1.0, 0.96], [1.0], [0.8])
    second = write_checkpoint(tmp_path / "b.pth", [1.0, 1.0])
    figure = tmp_path / "new" / "gates.png"
    execute(["plot", "gates", str(first), str(second), "--output", str(figure)])

    assert figure.read_bytes().startswith(b"\x89PNG")
    layers = read_table(figure.with_suffix(".csv"))
    assert [(row["network"], row["layer"]) for row in layers] == [
        *(("a", f"backbone.{i}") for i in range(4)),
        ("b", "backbone.0"),
    ]
    row = layers[1]
    assert row["gates"] == "3" and row["min"] == "0.5" and row["max"] == "1"
    assert float(row["mean"]) == pytest.approx(2.46 / 3, abs=1e-6)
    assert [float(row[f"share_{i}"]) for i in ("0.5-0.75", "0.9-0.99", "0.99-1")] == pytest.approx(
        [1 / 3] * 3, abs=1e-6
    )
    assert float(row["share_at_1"]) == pytest.approx(1 / 3, abs=1e-6)

    parts = read_table(tmp_path / "new" / "gates_parts.csv")
    found = [(row["network"], row["part"], row["layers"], row["gates"]) for row in parts]
    assert found == [
        ("a", "all", "4", "7"),
        ("a", "shallow", "2", "5"),
        ("a", "middle", "1", "1"),
        ("a", "deep", "1", "1"),
        ("b", "all", "1", "2"),
        ("b", "shallow", "1", "2"),
    ]
    # All gates of a part count alike, however its layers share them.
    assert float(parts[1]["mean"]) == pytest.approx(3.46 / 5, abs=1e-6)
    bins = read_table(tmp_path / "new" / "gates_histogram.csv")
    ones = {row["network"]: row["share"] for row in bins if row["to"] == "1"}
    # 0.96 is in the same bin.
    assert float(ones["a"]) == pytest.approx(4 / 7, abs=1e-6) and ones["b"] == "1"


def test_labels_tell_networks_apart(tmp_path: Path) -> None:
    for name in ("bin", "metabin"):
        (tmp_path / name).mkdir()
        write_checkpoint(tmp_path / name / "model_final.pth", [1.0])
    paths = [str(tmp_path / name / "model_final.pth") for name in ("bin", "metabin")]
    figure = tmp_path / "gates.svg"
    execute(["plot", "gates", *paths, "--output", str(figure)])
    names = [row["network"] for row in read_table(tmp_path / "gates.csv")]
    assert names == ["bin/model_final", "metabin/model_final"]
    execute(["plot", "gates", *paths, "--output", str(figure), "--labels", "BIN", "MetaBIN"])
    assert [row["network"] for row in read_table(tmp_path / "gates.csv")] == ["BIN", "MetaBIN"]
    for labels in (["BIN"], ["BIN", "BIN"]):
        with pytest.raises(FigureError, match="--labels"):
            execute(["plot", "gates", *paths, "--output", str(figure), "--labels", *labels])
    with pytest.raises(FigureError, match="comes twice"):
        execute(["plot", "gates", paths[0], paths[0], "--output", str(figure)])


def test_checkpoints_without_usable_gates_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(WeightsError, match="cannot be read"):
        read_gates(path)
    torch.save({"model": {"weight": torch.ones(2)}}, path)
    with pytest.raises(FigureError, match="has no gates"):
        read_gates(path)
    with pytest.raises(FigureError, match="not a finite number"):
        read_gates(write_checkpoint(path, [0.5, float("nan")]))
    content = bytearray(write_checkpoint(path, [0.5] * 64).read_bytes())
    where = content.index(torch.full((64,), 0.5).numpy().tobytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        read_gates(path)
