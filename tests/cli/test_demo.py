"""The demo leaves runs that are there alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from metabin_plugin.cli import demo
from metabin_plugin.errors import RunFolderError


@pytest.mark.parametrize("name", ["pretraining", "bn-seed2", "metabin-seed1"])
def test_an_output_with_runs_is_refused_unless_they_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "model_final.pth").write_text("another run's")
    command = ["demo.py", "--output", str(tmp_path), "--seeds", "1,2"]
    begun: list[str] = []
    monkeypatch.setattr(demo, "run_tool", lambda *arguments, **_: begun.append(str(arguments)))
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(RunFolderError, match=rf"--output .* \({name}\); .* --resume"):
        demo.main()
    assert not begun
    monkeypatch.setattr(sys, "argv", [*command, "--resume"])
    # It reads what the training, which does nothing here, would have left.
    with pytest.raises(Exception, match="results"):
        demo.main()
    assert "--resume" in begun[0]
