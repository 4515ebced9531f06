"""Without Faiss everything works but what searches with it, and that says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.tiny_data import tiny_options

ROOT = Path(__file__).parents[2]
TOOLS = sorted(
    str(path) for path in ROOT.glob("tools/*.py") if "__main__" in path.read_text("utf-8")
)
# Imports everything once, and forks for each command.
WITHOUT = """
import json, multiprocessing, os, runpy, sys
from pathlib import Path

sys.modules["faiss"] = None
sys.path.insert(0, "tools")
import metabin_plugin
metabin_plugin.register()
import metabin_plugin.engine

folder = Path(sys.argv[1])

def run(name, command):
    for stream, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}.{kind}", os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")

for name, command in json.loads((folder / "commands.json").read_text()).items():
    # It ends without freeing what it has of this process, which takes a second each time.
    child = multiprocessing.get_context("fork").Process(target=run, args=(name, command))
    child.start()
    child.join()
    (folder / f"{name}.status").write_text(str(child.exitcode))
"""
RERANK = ("TEST.RERANK.ENABLED", "True")


@dataclass(frozen=True)
class Run:
    folder: Path
    done: Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What commands did in a process that has no Faiss, by name."""
    folder = tmp_path_factory.mktemp("without")
    train = ["tools/train_net.py", "--config-file", "configs/MetaBIN-demo.yml"]
    options = tiny_options(folder)
    refused = [*options[:-1], str(folder / "refused")]
    commands = {
        **{f"help of {Path(tool).name}": [tool, "--help"] for tool in TOOLS},
        "re-ranking": [*train, *refused, *RERANK],
        "training": [*train, *options],
        "search": ["tools/search.py", "query", "no.index", "no.jpg"],
    }
    (folder / "commands.json").write_text(json.dumps(commands))
    subprocess.run(
        [sys.executable, "-c", WITHOUT, str(folder)],
        cwd=ROOT,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=500,
    )

    def done(name: str) -> subprocess.CompletedProcess[str]:
        status, out, err = ((folder / f"{name}.{k}").read_text() for k in ("status", "out", "err"))
        return subprocess.CompletedProcess(commands[name], int(status), out, err)

    return Run(folder, done)


@pytest.mark.slow
def test_every_tool_has_its_help(run: Run) -> None:
    assert len(TOOLS) > 15
    for tool in TOOLS:
        done = run.done(f"help of {Path(tool).name}")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: ")


@pytest.mark.slow
def test_a_training_needs_none_and_reranking_asks_for_it_before(run: Run) -> None:
    refused = run.done("re-ranking")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: TEST.RERANK.ENABLED is True, but Faiss"), (
        refused.stderr
    )
    assert refused.stderr.count("\n") == 1
    assert not (run.folder / "refused").exists()
    done = run.done("training")
    assert done.returncode == 0, done.stderr
    assert (run.folder / "out" / "results.json").exists()


@pytest.mark.slow
def test_search_asks_for_it(run: Run) -> None:
    done = run.done("search")
    assert done.returncode == 1
    assert "pip install faiss-cpu" in done.stderr
    assert "Traceback" not in done.stderr
