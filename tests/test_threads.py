"""Threads that wait leave the cores to others, unless the user has said how they wait."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.processes import ROOT

# With arguments that no command refuses before it begins its work.
COMMANDS = [
    ["-m", "metabin_plugin.cli.main", "train", "--config", "configs/MetaBIN.yml"],
    ["tools/train_net.py", "--config-file", "configs/MetaBIN.yml"],
    ["-m", "metabin_plugin", "tests/cli/plain_script.py", "--config-file", "configs/MetaBIN.yml"],
    ["tools/benchmark.py", "layer"],
    ["tools/export_onnx.py", "--output", "absent/model.onnx"],
    ["tools/plot_embeddings.py", "absent.pth"],
    ["tools/search.py", "query", "absent.index", "absent.jpg"],
    ["tools/visualize.py", "--config-file", "configs/MetaBIN.yml", "--dataset", "absent.csv"],
    ["projects/AugMining/train_net.py", "--config-file", "configs/MetaBIN.yml"],
    ["projects/DIMN/train_net.py", "--config-file", "configs/MetaBIN.yml"],
    ["projects/Examples/own_loss.py", "--config-file", "configs/MetaBIN.yml"],
    ["projects/Examples/own_norm.py", "--config-file", "configs/MetaBIN.yml"],
    ["projects/Examples/own_variant.py", "--config-file", "configs/MetaBIN.yml"],
]
WAITING = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
# Runs a command until it imports what reads the setting, and tells the setting.
UNTIL_IMPORTED = """
import os, runpy, sys

class Imports:
    def find_spec(self, name, path=None, target=None):
        if name in ("numpy", "torch"):
            print("GOMP_SPINCOUNT = %r" % os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Imports())
sys.argv = sys.argv[1:]
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name not in WAITING}
    return subprocess.run(
        [sys.executable, *words],
        env={**own, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def settings(code: str, **environment: str) -> str:
    """What GNU's OpenMP says it has taken."""
    done = run("-c", code, OMP_DISPLAY_ENV="VERBOSE", **environment)
    shown = re.compile(r"OPENMP DISPLAY ENVIRONMENT BEGIN.*?DISPLAY ENVIRONMENT END\n", re.DOTALL)
    found = shown.search(done.stderr)
    if found is None:
        pytest.skip("PyTorch here does not compute with GNU's OpenMP")
    return found.group()


def spins(shown: str) -> int:
    (count,) = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", shown)
    return int(count)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:3]))
def test_threads_of_a_command_soon_sleep(command: list[str]) -> None:
    done = run("-c", UNTIL_IMPORTED, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "GOMP_SPINCOUNT = '1000'\n"


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"GOMP_SPINCOUNT": "7"}, 7),
        ({"GOMP_SPINCOUNT": "7", "OMP_NUM_THREADS": "2"}, 7),
        ({"OMP_WAIT_POLICY": "passive"}, 0),
        ({"OMP_NUM_THREADS": "1"}, 1000),
    ],
)
def test_a_users_own_setting_stays(environment: dict[str, str], count: int) -> None:
    code = (
        "import metabin_plugin; metabin_plugin.let_waiting_threads_sleep(); "
        "import torch; torch.ones(2) + 1"
    )
    assert spins(settings(code, **environment)) == count


def test_the_setting_is_made_before_anything_is_loaded_that_reads_it() -> None:
    code = (
        "import metabin_plugin; metabin_plugin.let_waiting_threads_sleep(); import sys; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
