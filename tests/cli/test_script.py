from __future__ import annotations

import subprocess

import pytest

from tests.compat.processes import run_python

# What a script for plain fastreid looks like: it knows nothing of the plugin. Without it, only the
# first line is printed.
SCRIPT = """
import sys
import __main__

class Number:
    value = 10.0

def main(number):
    total = torch.tensor(number.value + comm.get_rank())
    dist.all_reduce(total)
    ranks = comm.gather(comm.get_rank())
    if comm.is_main_process():
        print("sum", total.item(), "ranks", ranks, sys.argv[1:], flush=True)
    from metabin_plugin.errors import DatasetError
    raise DatasetError("datasets/x: no such folder; create it.")

if __name__ == "__main__":
    print(__name__, __file__, sys.argv, sys.path[0], __main__.__dict__ is globals(), flush=True)

import torch
import torch.distributed as dist
from fastreid.engine import launch
from fastreid.utils import comm

if __name__ == "__main__":
    launch(main, 2, args=(Number(),))
"""


@pytest.mark.parametrize("arguments", [(), ("-h",)])
def test_usage_without_a_script(arguments):
    run = run_python("-m", "metabin_plugin", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "usage: python -m metabin_plugin SCRIPT [ARGS...]\n"


def test_a_missing_script_is_named():
    run = run_python("-m", "metabin_plugin", "no/such/script.py")
    assert run.returncode == 2
    assert "no/such/script.py" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(SCRIPT)
    return str(path)


@pytest.fixture(scope="module")
def plugged(script: str) -> subprocess.CompletedProcess[str]:
    """The script with the plugin."""
    return run_python("-m", "metabin_plugin", script, "--key", "value")


@pytest.mark.slow
def test_a_script_sees_what_python_itself_would_show_it(
    script: str, plugged: subprocess.CompletedProcess[str]
) -> None:
    plain = run_python(script, "--key", "value")
    assert plain.stdout == plugged.stdout.splitlines(keepends=True)[0] != ""


@pytest.mark.slow
def test_spawned_processes_find_the_scripts_functions_and_the_plugin(
    plugged: subprocess.CompletedProcess[str],
) -> None:
    assert plugged.stdout.splitlines()[1:] == ["sum 21.0 ranks [0, 1] ['--key', 'value']"]


@pytest.mark.slow
def test_an_error_in_a_spawned_process_is_one_sentence(
    plugged: subprocess.CompletedProcess[str],
) -> None:
    assert plugged.returncode == 1
    assert plugged.stderr.splitlines()[-1] == "error: datasets/x: no such folder; create it."
    assert "Traceback" not in plugged.stderr
