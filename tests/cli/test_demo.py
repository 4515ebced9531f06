"""The demo leaves runs that are there alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metabin_plugin.cli import demo
from metabin_plugin.cli.main import execute


@pytest.mark.parametrize("name", ["pretraining-seed1", "bn-seed2", "metabin-seed1"])
def test_an_output_with_runs_is_refused_unless_they_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "model_final.pth").write_text("another run's")
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    command = ["demo", "--output", str(tmp_path), "--seeds", "1,2"]
    begun: list[str] = []
    monkeypatch.setattr(demo, "run_command", lambda *arguments, **_: begun.append(str(arguments)))
    with pytest.raises(SystemExit, match="1"):
        execute(command)
    assert re.match(rf"error: --output .* \({name}\); .* --resume", capsys.readouterr().err)
    assert not begun
    # It reads what the training, which does nothing here, would have left.
    with pytest.raises(Exception, match="results"):
        execute([*command, "--resume"])
    assert "--resume" in begun[0]


def test_a_folder_that_cannot_be_is_a_sentence_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FASTREID_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(SystemExit, match="1"):
        execute(["demo", "--output", "file/demo"])
    assert re.match(r"error: file/demo/results.md cannot be written", capsys.readouterr().err)
    # In the place of the folder of the data.
    Path("datasets").write_text("")
    with pytest.raises(SystemExit, match="1"):
        execute(["demo", "--output", "demo"])
    assert re.match(r"error: datasets/demo cannot be filled .*; run", capsys.readouterr().err)


def test_a_command_is_one_of_metabin_and_its_failure_ends_the_demo(
    capfd: pytest.CaptureFixture[str],
) -> None:
    demo.run_command("train", "--help")
    assert capfd.readouterr().out.startswith("usage: metabin train")
    with pytest.raises(SystemExit, match="2"):
        demo.run_command("no such command")
