"""A disk that is full from the start, or soon: one sentence, and nothing of before is cut."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.engine.tiny_data import tiny_options
from tests.processes import run_script

START = ["tools/train_net.py", "--config-file", "configs/MetaBIN-demo.yml"]


def limited(blocks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run with files of at most so many blocks, 1024 bytes each; more is refused as on a disk."""
    return run_script(*START, *arguments, largest_file=1024 * blocks)


@pytest.mark.slow
def test_full_from_the_start(tmp_path: Path) -> None:
    options = tiny_options(tmp_path)
    done = limited(2, *options)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"error: OUTPUT_DIR {tmp_path / 'out'} cannot be written (File too")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_full_after_an_earlier_run(tmp_path: Path) -> None:
    options = tiny_options(tmp_path)
    out = tmp_path / "out"
    assert run_script(*START, *options).returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    weights = ("MODEL.WEIGHTS", str(out / "model_final.pth"))
    for more in (
        ("--resume", *options, "SOLVER.MAX_EPOCH", "3"),
        ("--eval-only", *options, *weights),
        options,
    ):
        done = limited(2, *more)
        assert done.returncode == 1
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith(f"error: OUTPUT_DIR {out} "), sentence
        for name, content in before.items():
            assert (out / name).read_bytes() == content, name


# The log ends before the first checkpoint, or the checkpoint does.
@pytest.mark.slow
@pytest.mark.parametrize("blocks", [64, 1000])
def test_full_soon(tmp_path: Path, blocks: int) -> None:
    done = limited(blocks, *tiny_options(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "model_0000.pth cannot be written (File too large)" in errors[0]
