"""Threads that wait leave the cores to others, unless the user has said how they wait."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.processes import ROOT

COMMANDS = [
    ["tools/train_net.py", "--help"],
    ["-m", "metabin_plugin", "tests/cli/plain_script.py", "--help"],
    ["tools/benchmark.py", "--help"],
    ["tools/export_onnx.py", "--help"],
    ["tools/plot_embeddings.py", "--help"],
    ["tools/search.py", "--help"],
    ["tools/visualize.py", "--help"],
    ["projects/AugMining/train_net.py", "--help"],
    ["projects/DIMN/train_net.py", "--help"],
    ["projects/Examples/own_loss.py", "--help"],
    ["projects/Examples/own_norm.py", "--help"],
    ["projects/Examples/own_variant.py", "--help"],
]
WAITING = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"


def settings(command: list[str], **environment: str) -> tuple[str, str]:
    """What GNU's OpenMP says it has taken, and all that the command wrote beside."""
    own = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run(
        [sys.executable, *command],
        env={**own, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "VERBOSE", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    shown = re.compile(r"OPENMP DISPLAY ENVIRONMENT BEGIN.*?DISPLAY ENVIRONMENT END\n", re.DOTALL)
    found = shown.search(done.stderr)
    if found is None:
        pytest.skip("PyTorch here does not compute with GNU's OpenMP")
    return found.group(), shown.sub("", done.stderr)


def spins(shown: str) -> int:
    (count,) = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", shown)
    return int(count)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_threads_of_a_command_soon_sleep(command: list[str]) -> None:
    shown, rest = settings(command)
    assert spins(shown) == 1000
    assert rest.strip() == ""


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
    assert spins(settings(["-c", code], **environment)[0]) == count


def test_the_setting_is_made_before_anything_is_loaded_that_reads_it() -> None:
    code = (
        "import metabin_plugin; metabin_plugin.let_waiting_threads_sleep(); import sys; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
