"""What is read from the logs of trainings, and what is refused."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from metabin_plugin.cli.main import execute
from metabin_plugin.report.files import FigureError
from metabin_plugin.report.training import USUAL, chosen_names, read_scalars


def write_log(folder: Path, *lines: str, end: str = "\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text("\n".join(lines) + end)
    return folder


def test_scalars_are_read_by_name_and_iteration(tmp_path: Path) -> None:
    run = write_log(
        tmp_path,
        '{"iteration": 1, "lr": 0.5, "total_loss": 3}',
        '{"iteration": 3, "lr": 0.25, "total_loss": NaN}',
        '{"iteration": 3, "lr": 0.125}',
    )
    scalars = read_scalars(run)
    assert scalars["lr"] == {1: 0.5, 3: 0.125}
    assert scalars["total_loss"][1] == 3 and math.isnan(scalars["total_loss"][3])


def test_a_line_cut_short_or_damaged_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_log(tmp_path, '{"iteration": 1, "lr": 1}', '{"iteration": 2, "l', end="")
    assert read_scalars(run) == {"lr": {1: 1.0}}
    assert capsys.readouterr().err == ""
    for line in ('{"iteration": 2, "l', '{"lr": 1}', "[1]", '{"iteration": 2, "lr": "x"}', ""):
        write_log(tmp_path, '{"iteration": 1, "lr": 1}', line, '{"iteration": 3, "lr": 1}')
        assert read_scalars(run) == {"lr": {1: 1.0, 3: 1.0}}
        assert "metrics.json: line 2 is damaged and left out" in capsys.readouterr().err


def test_missing_and_empty_logs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FigureError, match="cannot be read"):
        read_scalars(tmp_path)
    write_log(tmp_path, '{"iteration": 1', end="")
    with pytest.raises(FigureError, match="no complete line"):
        read_scalars(tmp_path)


def test_usual_scalars_leave_out_times_and_splits() -> None:
    names = [
        "time",
        "lr",
        "A/mAP",
        "A/mAP_std",
        "A/Rank-5",
        "loss_cls",
        "total_loss",
        "eta_seconds",
    ]
    runs = [{name: {0: 0.0}} for name in names]
    assert chosen_names(runs, USUAL) == ["total_loss", "loss_cls", "lr", "A/mAP"]
    assert chosen_names(runs, ["*mAP*", "A/*"]) == ["A/mAP", "A/mAP_std", "A/Rank-5"]
    with pytest.raises(FigureError, match="no scalar fits mINP; the logs have A/Rank-5, A/mAP"):
        chosen_names(runs, ["mINP"])


def test_runs_are_compared_in_one_table(tmp_path: Path) -> None:
    first = write_log(tmp_path / "bn", '{"iteration": 9, "lr": 0.5}', '{"iteration": 4, "lr": 1}')
    second = write_log(tmp_path / "bin", '{"iteration": 4, "lr": 2, "inner_lr": 0.1}')
    figure = tmp_path / "curves.png"
    execute(["plot", "training", str(first), str(second), "--output", str(figure)])
    assert figure.read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "curves.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["run", "scalar", "iteration", "value"],
        ["bn", "lr", "4", "1"],
        ["bn", "lr", "9", "0.5"],
        ["bin", "lr", "4", "2"],
        ["bin", "inner_lr", "4", "0.1"],
    ]
