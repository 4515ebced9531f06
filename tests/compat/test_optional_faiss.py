"""Without Faiss everything works but what searches with it, and that says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.tiny_data import tiny_options

ROOT = Path(__file__).parents[2]
TOOLS = sorted(
    str(path) for path in ROOT.glob("tools/*.py") if "__main__" in path.read_text("utf-8")
)
WITHOUT = (
    "import runpy, sys; sys.modules['faiss'] = None; sys.argv = sys.argv[1:]; "
    "sys.path.insert(0, 'tools'); runpy.run_path(sys.argv[0], run_name='__main__')"
)
# One after the other, since each imports PyTorch.
HELP = """
import runpy, sys
sys.modules['faiss'] = None
sys.path.insert(0, 'tools')
for tool in sys.argv[1:]:
    sys.argv = [tool, '--help']
    try:
        runpy.run_path(tool, run_name='__main__')
    except SystemExit as end:
        assert not end.code, tool
"""
RERANK = ("TEST.RERANK.ENABLED", "True")


def without_faiss(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, str(script), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_every_tool_has_its_help() -> None:
    command = [sys.executable, "-c", HELP, *TOOLS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(TOOLS) > 15


@pytest.mark.slow
def test_a_training_needs_none_and_reranking_asks_for_it_before(tmp_path: Path) -> None:
    start = ["--config-file", "configs/MetaBIN-demo.yml"]
    options = tiny_options(tmp_path)
    refused = without_faiss(ROOT / "tools/train_net.py", *start, *options, *RERANK)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: TEST.RERANK.ENABLED is True, but Faiss"), (
        refused.stderr
    )
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    done = without_faiss(ROOT / "tools/train_net.py", *start, *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "results.json").exists()


@pytest.mark.slow
def test_search_asks_for_it() -> None:
    done = without_faiss(ROOT / "tools/search.py", "query", "no.index", "no.jpg")
    assert done.returncode == 1
    assert "pip install faiss-cpu" in done.stderr
    assert "Traceback" not in done.stderr
